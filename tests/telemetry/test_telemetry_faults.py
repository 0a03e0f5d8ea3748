"""What telemetry does when the broker, the network or the agent's state misbehave."""

from __future__ import annotations

import contextlib
import datetime
import logging
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fleet_fakes import Host, State, model, node, until
from hyle_agent.telemetry import Telemetry
from hyle_deploy.broker import Broker, find_mosquitto
from sparkplug_wire import decode, rebirth_command

Report = Callable[..., Telemetry]


class FakeBroker:
    """Accepts one client after another and keeps the first packet of each; answers as told, byte by byte."""

    def __init__(self, *answers: bytes, read_on: bool = True) -> None:
        self.connects: list[bytes] = []
        self._answers = answers
        self._read_on = read_on
        self._closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._server.accept()
                with client:
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        client.settimeout(0.05)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connects.append(client.recv(65_536))
        for answer in self._answers:
            client.sendall(answer)
        while not self._closing.wait(0.01):
            with contextlib.suppress(TimeoutError):
                if self._read_on and not client.recv(65_536):
                    return

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._server.close()

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


CONNACK = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x03\x00\x01\x01"
SUBACK_REFUSED = b"\x90\x03\x00\x01\x80"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_broker_it_says_so_once_and_stops_cleanly(report: Report, caplog: pytest.LogCaptureFixture) -> None:
    state = State()
    telemetry = report(free_port(), state)
    until(lambda: state.reads > 5)
    assert not telemetry.online
    telemetry.stop()
    said = [record.getMessage() for record in caplog.records if "no broker" in record.getMessage()]
    assert len(said) == 1
    assert "serves on" in said[0]


def test_the_first_packet_is_an_mqtt_311_connect_with_the_death_as_will(report: Report) -> None:
    with FakeBroker() as fake:
        report(fake.port, State())
        until(lambda: fake.connects)
        packet = fake.connects[0]
    assert packet[0] == 0x10
    body = packet[2 if packet[1] < 0x80 else 3 :]
    assert body[:7] == b"\x00\x04MQTT\x04"
    assert body[7] == 0b0000_1110, "clean session, will, will QoS 1, no will retain, no account"
    rest = body[10:]
    parts = []
    for _ in range(3):
        size = int.from_bytes(rest[:2])
        parts.append(rest[2 : 2 + size])
        rest = rest[2 + size :]
    _identity, topic, will = parts
    assert (rest, topic) == (b"", b"spBv1.0/hyle/NDEATH/edge")
    assert [(m.name, m.value) for m in decode(will).metrics] == [("bdSeq", 0)]
    assert decode(will).seq is None


@pytest.mark.parametrize("answers", [(), (CONNACK,), (b"\x20\x02\x00\x05",), (b"HTTP/1.1 400 Bad Request\r\n\r\n",)])
def test_something_that_is_no_broker_never_holds_it(answers: tuple[bytes, ...], report: Report) -> None:
    with FakeBroker(*answers) as fake:
        telemetry = report(fake.port, State())
        until(lambda: fake.connects)
        assert not telemetry.online
    telemetry.stop()
    assert not telemetry._thread.is_alive()


def test_a_broker_that_refuses_commands_still_gets_births(report: Report, caplog: pytest.LogCaptureFixture) -> None:
    with FakeBroker(CONNACK, SUBACK_REFUSED) as fake:
        telemetry = report(fake.port, State())
        until(lambda: telemetry.online)
    telemetry.stop()
    assert any("refuses commands" in record.getMessage() for record in caplog.records)


def test_a_broker_that_stops_reading_fills_the_outbox_and_not_the_memory(report: Report, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox.sqlite"
    count = iter(range(10**9))

    def state() -> object:
        turn = next(count)
        return node(*(model(f"m{n}", reason=f"{turn} " * 60, requests=turn) for n in range(300)))

    with FakeBroker(CONNACK, SUBACK, read_on=False) as fake:
        telemetry = report(fake.port, state, interval_s=0.05, outbox=str(outbox), outbox_rows=500)
        until(lambda: outbox.exists() and kept(outbox) == 500, 60.0)
    telemetry.stop()
    assert kept(outbox) <= 500


def kept(outbox: Path) -> int:
    with contextlib.closing(sqlite3.connect(outbox, timeout=5)) as database, contextlib.suppress(sqlite3.Error):
        return int(database.execute("SELECT count(*) FROM sample").fetchone()[0])
    return 0


def test_a_state_that_cannot_be_read_delays_births_and_is_said_once(
    mosquitto: Broker, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    state, broken = State(), threading.Event()
    broken.set()
    attempts: list[int] = []

    def snapshot() -> object:
        attempts.append(1)
        if broken.is_set():
            raise RuntimeError("secret")
        return state()

    with Host(mosquitto.port) as host:
        telemetry = report(mosquitto.port, snapshot)
        until(lambda: attempts)
        telemetry.notify()
        until(lambda: len(attempts) > 1)
        broken.clear()
        telemetry.notify()
        host.await_count(1, "DBIRTH")
    said = [r.getMessage() for r in caplog.records if "cannot read" in r.getMessage()]
    assert len(said) == 1
    assert "RuntimeError" in said[0]
    assert "secret" not in said[0]


def test_a_callback_that_fails_does_not_end_reporting(mosquitto: Broker, report: Report) -> None:
    def fail() -> None:
        raise RuntimeError

    with Host(mosquitto.port) as host:
        report(mosquitto.port, State(), on_rebirth=fail)
        host.await_count(1, "DBIRTH")
        for births in (2, 3):
            host.publish("spBv1.0/hyle/NCMD/edge", rebirth_command())
            host.await_count(births, "DBIRTH")
        assert {m.bd_seq for m in host.of("NBIRTH")} == {0}


def test_it_says_when_the_broker_is_back(report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if find_mosquitto() is None:
        pytest.skip("the broker mosquitto is not installed here")
    caplog.set_level(logging.INFO, logger="hyle_agent.telemetry")
    port, state = free_port(), State()
    telemetry = report(port, state)
    until(lambda: state.reads > 1)
    with configured_mosquitto(tmp_path, port, "allow_anonymous true"):
        until(lambda: telemetry.online)
        telemetry.stop()
    assert sum("is back" in record.getMessage() for record in caplog.records) == 1


@contextlib.contextmanager
def configured_mosquitto(folder: Path, port: int, *lines: str) -> Iterator[None]:
    program = find_mosquitto()
    if program is None:
        pytest.skip("the broker mosquitto is not installed here")
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join([f"listener {port} 127.0.0.1", "user root", "persistence false", *lines, ""]))
    with subprocess.Popen([program, "-c", str(configuration)], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: accepts(port))
            yield
        finally:
            process.terminate()


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_an_account_is_used_and_a_wrong_password_is_said(
    report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed here")
    passwords, right, wrong = tmp_path / "passwords", tmp_path / "right", tmp_path / "wrong"
    subprocess.run([program, "-b", "-c", passwords, "agent", "open sesame"], check=True, capture_output=True)
    right.write_text("open sesame\n")
    wrong.write_text("closed\n")
    port = free_port()
    with configured_mosquitto(tmp_path, port, "allow_anonymous false", f"password_file {passwords}"):
        refused = report(port, State(), node="refused", username="agent", password_file=str(wrong))
        until(lambda: any("the broker refused" in r.getMessage() for r in caplog.records))
        welcome = report(port, State(), node="welcome", username="agent", password_file=str(right))
        until(lambda: welcome.online)
        assert not refused.online
        welcome.stop()
        refused.stop()
    assert not any("closed" in r.getMessage() or "sesame" in r.getMessage() for r in caplog.records)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "broker.pem", folder / "broker.key"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


# paho leaves the socket of a failed TLS handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_reaches_a_broker_whose_certificate_it_knows_and_no_other(
    report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / "known", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    (known, key), (other, _) = map(certificate, folders)
    port = free_port()
    with configured_mosquitto(tmp_path, port, "allow_anonymous true", f"certfile {known}", f"keyfile {key}"):
        stranger = report(port, State(), node="stranger", ca_file=str(other))
        until(lambda: any("CERTIFICATE_VERIFY_FAILED" in r.getMessage() for r in caplog.records))
        friend = report(port, State(), node="friend", ca_file=str(known))
        until(lambda: friend.online)
        assert not stranger.online
        friend.stop()
        stranger.stop()

"""What single drivers promise beyond the contract."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hyle_agent.drivers import find_device, find_driver
from hyle_agent.drivers.visa import connect as connect_visa
from hyle_agent.errors import ConfigError
from hyle_errors import CallerError
from hyle_protos.substrate import substrate_pb2 as pb
from hyle_substrates.box_driver import Responsive
from hyle_substrates.driver import DeviceError
from hyle_substrates.profile import load_profile
from hyle_substrates.remote import connect as connect_remote
from hyle_substrates.remote_server import serve
from hyle_substrates.twin import TwinDriver
from hyle_substrates.wire import pack, unpack, unpack_profile
from rigs import BOARD, Process, scpi_instrument, serial_board

from hyle.cli import main


def test_the_scpi_socket_waits_for_no_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = socket.socket.setsockopt

    def watched(self: socket.socket, *words: int) -> None:
        asked.append(words)
        real(self, *words)

    monkeypatch.setattr(socket.socket, "setsockopt", watched)
    rig = scpi_instrument()
    box = connect_visa({"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", "inputs": "2", "outputs": "1"})
    box.close()
    rig.unplug()
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in asked


def test_an_instrument_that_reports_an_error_is_not_believed() -> None:
    rig = scpi_instrument()
    options = {"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", "inputs": "2", "outputs": "1"}
    with pytest.raises(DeviceError, match="-113"):
        connect_visa({**options, "prepare": "NO:SUCH"})
    box = connect_visa({**options, "drive": "NO:SUCH:DATA"})
    with pytest.raises(DeviceError, match="-113"):
        box.respond(np.zeros((1, 0)), np.ones((1, 2)))
    box.close()
    rig.unplug()


def test_an_agents_device_is_a_matrix_a_black_box_or_one_beside_the_other() -> None:
    rig = scpi_instrument()
    options = {"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", "inputs": "2", "outputs": "1"}
    alone = find_device("visa")(options)
    assert (alone.describe().tiles, isinstance(alone, Responsive)) == (0, True)
    with pytest.raises(DeviceError, match="no matrix"):
        alone.program(0, np.ones((1, 1), dtype=np.int32))
    alone.close()
    both = find_device("twin", "visa", options)({"profile": "pcm-hermes"})
    assert both.describe().health["connected"] == 1.0
    assert both.describe().profile.name == "pcm-hermes"
    assert both.program(0, np.ones((2, 2), dtype=np.int32)).tile == 0
    assert isinstance(both, Responsive)
    assert both.respond(np.zeros((1, 0)), np.ones((1, 2))).shape == (1, 1)
    both.close()
    with pytest.raises(ConfigError, match="black box already"):
        find_device("visa", "visa", options)(options)
    with pytest.raises(ConfigError, match="no black box"):
        find_device("twin", "twin", {"profile": "ideal"})({"profile": "ideal"})
    rig.unplug()
    assert find_device("twin")({"profile": "ideal"}).describe().simulated


@pytest.mark.parametrize("damage", ["flip", "silence", "number", "words"])
def test_a_damaged_line_is_no_answer(damage: str, tmp_path: Path) -> None:
    lines = {"flip": "text = text[:-1] + bytes([text[-1] ^ 1])", "silence": "continue", "number": "text = b'0 OK'"}
    lines["words"] = "text = number.encode() + b' OK 1.5x 2'"
    source = (Path(__file__).parent / "serial_board.py").read_text()
    fault = f'if words and words[0] == "APPLY":\n                check = xor(text)\n                {lines[damage]}\n'
    whole = '            os.write(master, text + b" *%02X\\n" % xor(text))'
    damaged = (
        f'            check = xor(text)\n            {fault}            os.write(master, text + b" *%02X\\n" % check)'
    )
    if damage == "words":
        damaged = damaged.replace("% check", "% xor(text)")
    assert whole in source
    (tmp_path / "board.py").write_text(source.replace(whole, damaged))

    rig = Process([sys.executable, str(tmp_path / "board.py"), str(tmp_path / "tty"), str(BOARD)])
    board = find_driver("serial")({"port": str(tmp_path / "tty"), "profile": str(BOARD), "timeout_s": "0.5"})
    board.program(0, np.ones((4, 4), dtype=np.int32))
    with pytest.raises(DeviceError):
        board.apply([0], np.ones((1, 4), dtype=np.int32))
    board.close()
    rig.unplug()


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("serial", {"port": "/dev/none"}),
        ("serial", {"port": "/dev/none", "profile": str(BOARD), "baud": "fast"}),
        ("serial", {"port": "/dev/none", "profile": "ideal"}),
        ("visa", {"address": "TCPIP::127.0.0.1::1::SOCKET", "inputs": "1"}),
        ("visa", {"address": "TCPIP::127.0.0.1::1::SOCKET", "inputs": "1", "outputs": "99"}),
        ("remote", {}),
        ("remote", {"address": "127.0.0.1:1", "speed": "9"}),
        ("remote", {"address": "127.0.0.1:1", "timeout_s": "soon"}),
        ("remote", {"address": "10.255.0.1:1"}),
        ("remote", {"address": "127.0.0.1:1", "ca": "/none.pem"}),
    ],
)
def test_a_wrong_option_is_the_callers_mistake(driver: str, options: dict[str, str]) -> None:
    with pytest.raises(CallerError):
        find_driver(driver)(options)


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("serial", {"port": "/dev/none", "profile": str(BOARD)}),
        ("visa", {"address": "TCPIP::127.0.0.1::1::SOCKET", "inputs": "1", "outputs": "1", "timeout_s": "1"}),
        ("remote", {"address": "127.0.0.1:1", "timeout_s": "1"}),
    ],
)
def test_a_device_that_is_not_there_is_said_so_and_not_kept(driver: str, options: dict[str, str]) -> None:
    for _ in range(2):
        with pytest.raises(DeviceError, match="does not answer"):
            find_driver(driver)(options)


def test_the_server_half_offers_a_driver_to_one_owner_at_a_time() -> None:
    threads = set()

    class Watched(TwinDriver):
        def apply(self, tiles, codes):  # type: ignore[no-untyped-def]
            threads.add(threading.get_ident())
            return super().apply(tiles, codes)

    server = serve(lambda: Watched(load_profile("pcm-hermes"), 1))
    options = {"address": f"127.0.0.1:{server.port}"}
    first = connect_remote(options)
    with pytest.raises(DeviceError, match="owner"):
        connect_remote(options)
    first.program(0, np.ones((4, 4), dtype=np.int32))
    for _ in range(8):
        first.apply([0], np.ones((2, 4), dtype=np.int32))
    assert first.apply([0], np.zeros((0, 4), dtype=np.int32)).shape == (0, 4)
    assert len(threads) == 1
    first.close()
    server.stop()
    with pytest.raises(DeviceError, match="closed"):
        first.describe()


def test_a_message_that_is_not_as_long_as_it_says_is_refused() -> None:
    for values in (np.arange(6, dtype=np.int32).reshape(2, 3), np.ones((1, 2), dtype=np.float32)):
        back = unpack(pack(values))
        assert back.dtype == values.dtype
        np.testing.assert_array_equal(back, values)
    with pytest.raises(DeviceError, match="length"):
        unpack(pb.Matrix(rows=2, cols=2, data=b"123"))
    with pytest.raises(DeviceError, match="32 bits"):
        pack(np.array([[2**40]]))
    with pytest.raises(DeviceError, match="profile is wrong"):
        unpack_profile(b"{}")


def test_the_verbs_say_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check-substrate", "ideal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    assert main(["check-substrate", "aether"]) == 2
    rig = serial_board(tmp_path / "tty")
    options = ["--option", f"port={tmp_path}/tty", "--option", f"profile={BOARD}", "--option", "timeout_s=0.5"]
    signals = ["--unplug", f"kill -STOP {rig.pid}", "--replug", f"kill -CONT {rig.pid}"]
    assert main(["check-driver", "serial", *options, *signals]) == 0
    assert "says so when it is unplugged" in capsys.readouterr().out
    assert main(["check-driver", "serial", *options, "--unplug", "true"]) == 2
    assert main(["check-driver", "serial", *options, "--unplug", "true", "--replug", "true"]) == 1
    rig.unplug()


def test_an_instruments_faults_are_named_and_another_one_in_its_place_is_not_asked(tmp_path: Path) -> None:
    rig = scpi_instrument()
    options = {"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", "inputs": "2", "outputs": "1", "timeout_s": "0.5"}
    box = connect_visa(options)
    ask = (np.zeros((1, 0)), np.ones((1, 2)))
    answer = box.respond(*ask)
    rig.freeze()
    with pytest.raises(DeviceError) as caught:
        box.respond(*ask)
    assert caught.value.fault == "timeout"
    rig.thaw()
    rig.unplug()
    with pytest.raises(DeviceError):
        box.respond(*ask)
    assert (box.describe().fault, box.describe().health["connected"]) == ("unplugged", 0.0)
    source = (Path(__file__).parent / "scpi_instrument.py").read_text()
    other = tmp_path / "other.py"
    other.write_text(source.replace("hyle tests,plate,1,0", "hyle tests,plate,2,0"))
    genuine, rig._command[1] = rig._command[1], str(other)
    rig.replug()
    with pytest.raises(DeviceError) as caught:
        box.respond(*ask)
    assert caught.value.fault == "wrong device"
    rig.unplug()
    rig._command[1] = genuine
    rig.replug()
    np.testing.assert_array_equal(box.respond(*ask), answer)
    box.close()
    rig.unplug()

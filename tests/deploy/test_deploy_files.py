"""The files beside the package: each is read, or run, by the program that it is for, where that program is here."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import msgspec
import paho.mqtt.client as mqtt
import pytest
import yaml
from hyle_agent.config import Config, check
from hyle_agent.telemetry.metrics import MODEL_METRICS, NODE_METRICS
from hyle_deploy.exporter import exposition
from hyle_deploy.watch import Watched
from hyle_protos.sparkplug.sparkplug_b_pb2 import DataType

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
PASSWD = shutil.which("mosquitto_passwd")


def manifests() -> dict[str, dict]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "agent.yaml").read_text())
    return {document["kind"]: document for document in documents}


def container() -> dict:
    return manifests()["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with a program and a user that exist here, which `verify` asks for."""
    text = (DEPLOY / "systemd" / "hyle-agent.service").read_text()
    text = (
        text.replace("/opt/hyle/bin/hyle", sys.executable)
        .replace("User=hyle", "User=root")
        .replace("Group=hyle", "Group=root")
    )
    path = tmp_path / "hyle-agent.service"
    path.write_text(text)
    return path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_every_line_of_the_unit(unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert ours == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_calls_the_units_exposure_ok(unit):
    """systemd's own scale: up to 2.0 of 10 reads OK."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no offline security check")
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def test_the_unit_leaves_the_agent_time_to_drain():
    text = (DEPLOY / "systemd" / "hyle-agent.service").read_text()
    stop_s = float(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert stop_s > Config().drain_s
    assert manifests()["StatefulSet"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > Config().drain_s


def test_the_unit_starts_an_agent_whose_device_comes_up_late():
    text = (DEPLOY / "systemd" / "hyle-agent.service").read_text()
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(text.splitlines())


def test_the_agent_accepts_the_configuration_in_the_manifest():
    config = msgspec.convert(tomllib.loads(manifests()["ConfigMap"]["data"]["agent.toml"]), Config)
    check(config)
    assert (
        config.address.port
        == container()["ports"][0]["containerPort"]
        == manifests()["Service"]["spec"]["ports"][0]["port"]
    )


def test_the_pod_keeps_to_the_restricted_security_standard():
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    inside = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not inside["allowPrivilegeEscalation"]
    assert inside["readOnlyRootFilesystem"]
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_every_file_that_the_pods_agent_names_is_mounted():
    text = manifests()["ConfigMap"]["data"]["agent.toml"]
    named = set(re.findall(r'"(/[^"]+)"', text))
    mounts = [mount["mountPath"] for mount in container()["volumeMounts"]]
    assert named
    assert [path for path in named if not any(path.startswith(mount) for mount in mounts)] == []
    volumes = {volume["name"] for volume in manifests()["StatefulSet"]["spec"]["template"]["spec"]["volumes"]} | {
        "store"
    }
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes


def test_probes_are_a_program_that_is_there():
    for name in ("startupProbe", "readinessProbe"):
        command = container()[name]["exec"]["command"]
        assert command[:3] == ["python", "-m", "hyle_deploy.probe"]
        done = subprocess.run(
            [sys.executable, *command[1:3], "--help"], capture_output=True, text=True, timeout=60, check=True
        )
        assert all(option.partition("=")[0] in done.stdout for option in command[3:])
        assert container()[name]["timeoutSeconds"] > 5


def test_the_image_is_built_in_two_stages_and_runs_as_nobody():
    lines = (DEPLOY / "container" / "Dockerfile").read_text().splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert len(stages) == 2
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 65532:65532" in last
    assert not any("pip install" in line for line in last)


def test_the_build_context_holds_every_package_of_the_distribution():
    kept = {
        line[1:]
        for line in (DEPLOY / "container" / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [name for name in packages if not {name, name.partition("/")[0]} & kept] == []
    assert set(project["project"]["license-files"]) | {project["project"]["readme"]} <= kept


@pytest.mark.parametrize("name", ["systemd/hyle-agent.service", "container/Dockerfile"])
def test_no_agent_is_started_with_onnxruntimes_own_telemetry(name):
    lines = (DEPLOY / name).read_text().splitlines()
    assert any(line.startswith(("Environment=", "ENV ")) and "ORT_DISABLE_TELEMETRY=1" in line for line in lines)


def exported_names() -> set[str]:
    def readings(metrics):
        return {metric.name: "text" if metric.datatype == DataType.String else 1.0 for metric in metrics}

    model = {"online": True, "metrics": readings(MODEL_METRICS)}
    node = {"group": "g", "node": "n", "state": "online", "gaps": 0, "last_seen": 1.0}
    node |= {"metrics": readings(NODE_METRICS), "models": {"m": model}}
    text = exposition(Watched(True, [node], 1, 0, 0))
    return set(re.findall(r"^# TYPE (\S+) gauge$", text, re.MULTILINE))


def test_every_metric_of_the_dashboard_is_one_that_the_exporter_has():
    dashboard = (DEPLOY / "grafana" / "hyle-fleet.json").read_text()
    asked = set(re.findall(r"hyle_[a-z0-9_]+", dashboard))
    assert len(asked) >= 10
    assert asked - exported_names() == set()


def test_the_dashboards_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    panels = json.loads((DEPLOY / "grafana" / "hyle-fleet.json").read_text())["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def broker(tmp_path, authority):
    """A real Mosquitto with the example's own lines; only the port, the bind address and the paths are this test's."""
    if not MOSQUITTO or not PASSWD:
        pytest.skip("mosquitto is not installed")
    passwords, port = tmp_path / "hyle.passwd", free_port()
    for number, name in enumerate(("edge-1", "edge-2", "watch")):
        subprocess.run(
            [PASSWD, *(["-c"] if number == 0 else []), "-b", str(passwords), name, "secret"],
            check=True,
            capture_output=True,
        )
    cert, key = authority.issue("broker")
    text = (DEPLOY / "broker" / "mosquitto.conf").read_text()
    for old, new in {
        "/etc/mosquitto/hyle.passwd": passwords,
        "/etc/mosquitto/hyle.acl": DEPLOY / "broker" / "hyle.acl",
        "/etc/mosquitto/certs/broker.crt": cert,
        "/etc/mosquitto/certs/broker.key": key,
        "listener 8883": f"user root\nlistener {port} 127.0.0.1",
    }.items():
        assert old in text
        text = text.replace(old, str(new))
    config = tmp_path / "mosquitto.conf"
    config.write_text(text)
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


class Account:
    """One MQTT 5 session over TLS that says what the broker granted."""

    def __init__(self, port: int, authority, name: str, password: str = "secret") -> None:
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(name, password)
        self.client.tls_set(ca_certs=str(authority.pem), cert_reqs=ssl.CERT_REQUIRED)
        self.code, self.connected = None, threading.Event()
        self.acknowledged: dict[int, str] = {}
        self.received: list[str] = []
        self.news = threading.Condition()
        self.client.on_connect = self._on_connect
        self.client.on_publish = lambda _c, _u, mid, code, _p: self._note(
            lambda: self.acknowledged.update({mid: str(code)})
        )
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(
            lambda: self.acknowledged.update({mid: str(codes[0])})
        )
        self.client.on_message = lambda _c, _u, message: self._note(lambda: self.received.append(message.topic))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.connected.wait(10)

    def _on_connect(self, _client, _data, _flags, code, _properties) -> None:
        self.code = str(code)
        self.connected.set()

    def _note(self, change) -> None:
        with self.news:
            change()
            self.news.notify_all()

    def publish(self, topic: str) -> str:
        mid = self.client.publish(topic, b"x", qos=1).mid
        with self.news:
            assert self.news.wait_for(lambda: mid in self.acknowledged, 10)
        return self.acknowledged[mid]

    def subscribe(self, topic: str) -> str:
        mid = self.client.subscribe(topic, qos=1)[1]
        with self.news:
            assert self.news.wait_for(lambda: mid in self.acknowledged, 10)
        return self.acknowledged[mid]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_the_broker_lets_an_agent_speak_for_itself_alone(broker, authority):
    watch, edge = Account(broker, authority, "watch"), Account(broker, authority, "edge-1")
    try:
        watch.subscribe("spBv1.0/hyle/#")
        own = ["spBv1.0/hyle/NBIRTH/edge-1", "spBv1.0/hyle/NDATA/edge-1", "spBv1.0/hyle/DDATA/edge-1/lenet"]
        for topic in own:
            assert edge.publish(topic) in {"Success", "No matching subscribers"}
        for topic in (
            "spBv1.0/hyle/NDATA/edge-2",
            "spBv1.0/hyle/NCMD/edge-1",
            "spBv1.0/other/NDATA/edge-1",
            "anything",
        ):
            assert edge.publish(topic) == "Not authorized"
        with watch.news:
            assert watch.news.wait_for(lambda: len(watch.received) == len(own), 10)
        assert watch.received == own
    finally:
        watch.close()
        edge.close()


def test_who_watches_may_ask_for_births_and_nothing_else(broker, authority):
    watch = Account(broker, authority, "watch")
    try:
        assert watch.publish("spBv1.0/hyle/NCMD/edge-1") in {"Success", "No matching subscribers"}
        assert watch.publish("spBv1.0/hyle/NDATA/edge-1") == "Not authorized"
    finally:
        watch.close()


@pytest.mark.parametrize(("name", "password"), [("edge-1", "wrong"), ("nobody", "secret")])
def test_the_broker_lets_no_stranger_in(broker, authority, name, password):
    stranger = Account(broker, authority, name, password)
    try:
        assert stranger.code == "Not authorized"
    finally:
        stranger.close()

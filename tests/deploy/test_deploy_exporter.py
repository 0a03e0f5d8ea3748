"""The Prometheus exporter and the health probe, over real sockets."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hyle_deploy.broker import available_brokers, start_broker
from hyle_deploy.exporter import exposition, serve
from hyle_deploy.exporter import main as export
from hyle_deploy.probe import main as probe
from hyle_deploy.watch import Watched
from hyle_errors import CallerError

NODE = {
    "group": "hyle",
    "node": 'edge "1"\\',
    "state": "online",
    "gaps": 2,
    "last_seen": 12.5,
    "metrics": {"agent/version": "0.1.0", "memory/rss_bytes": 5, "device/simulated": True, "agent/uptime_s": None},
    "models": {
        "lenet": {
            "online": True,
            "metrics": {"latency/p99_s": 0.25, "reason": "long\nstory", "bundle/version": "2", "ready": False},
        }
    },
}
LINE = re.compile(r'^[a-z_][a-z0-9_]*(\{([a-z_][a-z0-9_]*="([^"\\\n]|\\["\\n])*",?)+\})? [-+0-9.e]+$')


def test_numbers_become_gauges_and_texts_become_labels():
    text = exposition(Watched(True, [NODE], 7, 1, 0))
    labels = r'group="hyle",node="edge \"1\"\\"'
    assert 'hyle_model_latency_p99_s{group="hyle",model="lenet",node="edge \\"1\\"\\\\"} 0.25' in text
    assert f"hyle_node_memory_rss_bytes{{{labels}}} 5.0" in text
    assert f"hyle_node_device_simulated{{{labels}}} 1.0" in text
    assert 'bundle_version="2"' in text
    assert "uptime" not in text
    assert "story" not in text
    assert "hyle_messages 7.0" in text


def test_every_line_is_one_that_prometheus_reads():
    lines = exposition(Watched(False, [NODE, {**NODE, "node": "edge-2", "state": "offline"}], 7, 1, 0)).splitlines()
    assert all(LINE.match(line) for line in lines if not line.startswith("#"))
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


def test_an_empty_fleet_is_still_exported():
    assert "hyle_broker_connected 0.0" in exposition(Watched(False, [], 0, 0, 0))


@pytest.fixture
def metrics_url():
    with serve(lambda: Watched(True, [NODE], 7, 1, 0), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_scrape_over_http(metrics_url):
    with urllib.request.urlopen(f"{metrics_url}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert response.read().decode() == exposition(Watched(True, [NODE], 7, 1, 0))


def test_other_paths_are_not_found(metrics_url):
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        urllib.request.urlopen(f"{metrics_url}/", timeout=10)
    caught.value.close()


def test_an_address_that_is_taken_is_refused(metrics_url):
    port = int(metrics_url.rpartition(":")[2])
    with pytest.raises(CallerError, match="cannot be listened on"):
        serve(lambda: Watched(True, [], 0, 0, 0), "127.0.0.1", port)


def test_a_broker_that_is_not_there_exits_2(capsys):
    assert export(["--broker", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_the_exporter_runs_beside_a_real_broker_and_stops_when_told(tmp_path):
    if not available_brokers():
        pytest.skip("no MQTT broker is installed")
    with start_broker(tmp_path) as broker:
        command = [sys.executable, "-m", "hyle_deploy.exporter", "--broker", f"{broker.host}:{broker.port}"]
        with subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as process:
            try:
                ready = process.stderr.readline()
                assert ready.startswith("hyle exporter ready on "), ready
                with urllib.request.urlopen(f"http://{ready.split()[-1]}/metrics", timeout=10) as response:
                    assert "hyle_broker_connected 1.0" in response.read().decode()
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(15) == 0


@pytest.fixture
def health_address():
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("lenet", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 0, "SERVING"),
        (["--service", "lenet"], 1, "NOT_SERVING"),
        (["--service", "nobody"], 1, "refused"),
    ],
)
def test_the_probe_says_what_health_says(health_address, capsys, arguments, code, words):
    assert probe(["--to", health_address, *arguments]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--to", "127.0.0.1:1", "--timeout", "2"], ["--to", "127.0.0.1:1", "--ca", "no.pem"]]
)
def test_the_probe_fails_when_nobody_answers(capsys, arguments):
    assert probe(arguments) == 1
    assert capsys.readouterr().err


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:65536"])
def test_a_place_to_listen_is_a_host_and_a_port(listen):
    with pytest.raises(SystemExit, match="2"):
        export(["--broker", "127.0.0.1:1", "--listen", listen])

"""The verbs against `hyle agent run` in a process of its own: signed bundles over mutual TLS, from an empty store."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hyle_deploy.client import connect
from hyle_deploy.probe import main as probe

from hyle.cli import main

DATA = Path(__file__).parents[1] / "data" / "digits_mlp"
SAMPLES = 450


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder with two keys and four versions of the digits model: two of ours, one of theirs, one unsigned."""
    folder = tmp_path_factory.mktemp("room")
    for key in ("ours", "theirs"):
        assert main(["keys", "new", key, "--dir", str(folder), "--json"]) == 0
    for version, key in (("1", "ours"), ("2", "ours"), ("3", "theirs"), ("4", None)):
        command = ["compile", str(DATA / "model.onnx"), "--target", "ideal", "--calib", str(DATA / "calib.npz")]
        command += [
            "-o",
            str(folder / f"{version}.hyle"),
            "--name",
            "digits",
            "--version",
            version,
            "--counter",
            version,
        ]
        assert (
            main([*command, "--instances", "1", *(["--key", str(folder / f"{key}.key")] if key else []), "--json"]) == 0
        )
    return folder


@pytest.fixture(scope="module")
def options(room) -> list[str]:
    """How to reach the agent, as options of a verb; it runs until the module's tests are done."""
    assert main(["agent", "init", "--directory", str(room / "agent"), "--json"]) == 0
    config = room / "agent" / "agent.toml"
    text = config.read_text()
    for line, new in {
        r"^listen = .*$": 'listen = "127.0.0.1:0"',
        r"^trusted = .*$": f'trusted = ["{room}/ours.pub"]',
        r"^profile = .*$": 'profile = "ideal"',
    }.items():
        text, count = re.subn(line, new, text, flags=re.MULTILINE)
        assert count == 1, line
    config.write_text(text)
    ready, log = room / "ready", room / "agent.log"
    command = [sys.executable, "-m", "hyle", "agent", "run", "--config", str(config), "--ready-file", str(ready)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        certs = room / "agent" / "certs"
        pair = ["--cert", str(certs / "client.crt"), "--key", str(certs / "client.key")]
        yield ["--to", ready.read_text(), "--ca", str(certs / "authority.crt"), *pair]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == 0, log.read_text()


def result(capsys, *arguments: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_two_versions_go_the_whole_way_and_back(room, options, capsys):
    first = result(capsys, "deploy", str(room / "1.hyle"), *options)
    assert first["activated"]
    assert first["self_test"]["passed"]
    assert 0 < first["sent_bytes"] <= first["bundle_bytes"]

    # 0.9800 is what the float model scores on these samples, and `ideal` must answer as it does.
    for batch in ("1", "450"):
        answered = result(capsys, "infer", "digits", "--data", str(DATA / "eval.npz"), "--batch", batch, *options)
        assert (answered["samples"], answered["accuracy"]) == (SAMPLES, 441 / SAMPLES)

    second = result(capsys, "deploy", str(room / "2.hyle"), *options)
    assert second["sent_bytes"] < second["bundle_bytes"] / 2
    status = result(capsys, "status", *options)
    model = status["models"][0]
    slots = {slot["slot"]: slot for slot in model["slots"]}
    assert (status["device"]["profile"], model["ready"], slots[model["active"]]["version"]) == ("ideal", True, "2")
    assert {slot["version"] for slot in slots.values()} == {"1", "2"}
    assert all(slot["signer"] for slot in slots.values())

    assert result(capsys, "rollback", "digits", *options)["version"] == "1"
    assert result(capsys, "infer", "digits", "--data", str(DATA / "eval.npz"), *options)["versions"] == ["1"]


def test_the_same_bundle_twice_sends_nothing(room, options, capsys):
    result(capsys, "deploy", str(room / "2.hyle"), *options)
    assert result(capsys, "deploy", str(room / "2.hyle"), *options)["sent_blobs"] == 0


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_bundle_that_no_trusted_key_signed_is_refused_with_the_agents_remedy(room, options, capsys, version):
    refused = result(capsys, "deploy", str(room / f"{version}.hyle"), *options, code=2)
    assert "refused" in refused["error"]
    assert refused["remedy"]
    assert version not in {
        slot["version"] for model in result(capsys, "status", *options)["models"] for slot in model["slots"]
    }


def test_a_client_without_a_certificate_is_not_let_in(options, capsys):
    assert main(["status", *options[:4], "--timeout", "5", "--json"]) in {1, 2}


def test_the_self_test_runs_on_demand(room, options, capsys):
    result(capsys, "deploy", str(room / "2.hyle"), *options)
    with connect(options[1], ca=options[3], cert=options[5], key=options[7]) as client:
        report = client.self_test("digits")
    assert report.passed
    assert report.residual <= report.tolerance


def test_the_probe_sees_a_serving_model(room, options, capsys):
    result(capsys, "deploy", str(room / "2.hyle"), *options)
    assert probe([*options, "--service", "digits"]) == 0
    assert probe([*options, "--service", "nobody"]) == 1


def test_a_removed_model_leaves_its_tiles_and_is_there_no_more(room, options, capsys):
    result(capsys, "deploy", str(room / "2.hyle"), *options)
    assert result(capsys, "status", *options)["device"]["tiles_used"] > 0
    assert result(capsys, "remove", "digits", *options) == {"agent": options[1], "model": "digits", "removed": True}
    status = result(capsys, "status", *options)
    assert (status["models"], status["device"]["tiles_used"]) == ([], 0)
    assert "not installed" in result(capsys, "remove", "digits", *options, code=2)["error"]
    assert main(["deploy", str(room / "2.hyle"), *options]) == 0
    assert main(["remove", "digits", *options]) == 0
    assert "digits is no longer on" in capsys.readouterr().err

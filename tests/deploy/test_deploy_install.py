"""Installing: only what is missing travels, nothing is activated by accident, a broken line is taken up again."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from hyle_bundle import open_bundle
from hyle_deploy.client import connect
from hyle_deploy.failures import AgentError, AgentUnreachableError, RefusedError
from hyle_deploy.transfer import CHUNK_BYTES, blob_chunks
from hyle_errors import CallerError
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_first_deployment_sends_everything_and_activates_it(client, agent, bundle):
    path = bundle("1")
    stages = []
    result = client.deploy(path, progress=lambda progress: stages.append(progress.stage))
    with open_bundle(path) as opened:
        assert result.digest == opened.digest == agent.active[-1]
        sizes = [entry.size for entry in opened.manifest.files.values()]
    assert (result.model, result.version, result.activated) == ("linear", "1", True)
    assert (result.sent_blobs, result.sent_bytes, result.bundle_bytes) == (len(sizes), sum(sizes), sum(sizes))
    assert result.self_test is not None
    assert result.self_test.passed
    assert list(dict.fromkeys(stages)) == ["plan", "upload", "install", "activate"]


def test_a_second_version_sends_only_what_changed(client, agent, bundle):
    client.deploy(bundle("1"))
    result = client.deploy(bundle("2"))
    assert result.sent_blobs == 1
    assert result.sent_bytes == len(b"2")


def test_the_same_bundle_again_uploads_nothing(client, agent, bundle):
    path = bundle("1")
    client.deploy(path)
    agent.calls.clear()
    assert client.deploy(path).sent_blobs == 0
    assert agent.calls == ["Plan", "Install", "Activate"]


def test_files_with_equal_content_travel_once(client, agent, bundle):
    path = bundle("1", {"a.onnx": b"same", "b.onnx": b"same", "empty.txt": b""})
    result = client.deploy(path)
    assert result.sent_blobs == 2
    assert result.sent_bytes == 4
    assert sorted(agent.blobs.values()) == [b"", b"same"]


def test_install_only_leaves_what_serves(client, agent, bundle):
    result = client.deploy(bundle("1"), activate=False)
    assert not result.activated
    assert agent.active == []


def test_no_chunk_is_larger_than_a_mebibyte(client, agent, bundle):
    data = np.random.default_rng(0).bytes(3 * CHUNK_BYTES + 5)
    seen = []
    client.deploy(bundle("1", {"programming.safetensors": data}), progress=seen.append)
    assert agent.chunk_sizes == [CHUNK_BYTES] * 3 + [5]
    uploads = [(progress.done, progress.total) for progress in seen if progress.stage == "upload"]
    assert uploads[-1] == (len(data), len(data))
    assert uploads == sorted(uploads)


@given(size=st.integers(0, 3 * CHUNK_BYTES))
@settings(max_examples=20, deadline=None)
def test_chunks_joined_are_the_blob(size):
    data = bytes(size)
    chunks = list(blob_chunks("d", memoryview(data)))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert [chunk.sha256 for chunk in chunks] == ["d"] + [""] * (len(chunks) - 1)
    assert chunks[0].size == size


def test_a_broken_upload_is_taken_up_where_it_broke(client, agent, bundle):
    agent.break_after_blobs = 1
    result = client.deploy(bundle("1", {"a": b"first", "b": b"second", "c": b"third"}))
    assert agent.calls == ["Plan", "Upload", "Plan", "Upload", "Install", "Activate"]
    assert sorted(agent.blobs.values()) == [b"first", b"second", b"third"]
    assert agent.chunk_sizes.count(len(b"first")) <= 2 + agent.chunk_sizes.count(len(b"third"))
    assert result.sent_blobs == 3


def test_an_upload_that_keeps_breaking_ends(client, agent, bundle):
    agent.failures["Upload"] = [(grpc.StatusCode.UNAVAILABLE, "the cable was pulled")] * 9
    with pytest.raises(AgentUnreachableError, match="cable"):
        client.deploy(bundle("1"))
    assert agent.calls.count("Upload") == 3
    assert "Install" not in agent.calls


@pytest.mark.parametrize("call", ["Install", "Activate"])
def test_a_call_that_changes_the_agent_is_never_repeated(client, agent, bundle, call):
    agent.failures[call] = [(grpc.StatusCode.UNAVAILABLE, "going down")]
    with pytest.raises(AgentUnreachableError):
        client.deploy(bundle("1"))
    assert agent.calls.count(call) == 1


def test_a_refusal_passes_on_the_agents_own_words(client, agent, bundle):
    agent.failures["Plan"] = [(grpc.StatusCode.PERMISSION_DENIED, "No trusted key signed linear 1.")]
    agent.remedy = "Add the signer's public key, ä, to `trust`."
    with pytest.raises(CallerError) as caught:
        client.deploy(bundle("1"))
    assert "No trusted key signed linear 1." in caught.value.message
    assert caught.value.remedy == agent.remedy
    assert agent.calls == ["Plan"]


def test_an_agent_that_asks_for_what_the_bundle_lacks_is_not_trusted(client, agent, bundle):
    agent.ask_for = ["f" * 64]
    with pytest.raises(AgentError, match="f" * 64):
        client.deploy(bundle("1"))
    assert agent.calls == ["Plan"]


def test_an_agent_that_installed_something_else_is_not_activated(client, agent, bundle):
    agent.install_as = "0" * 64
    with pytest.raises(AgentError, match="installed '0"):
        client.deploy(bundle("1"))
    assert agent.active == []


def test_a_damaged_bundle_is_refused_before_anything_is_sent(client, agent, bundle):
    path = bundle("1")
    data = bytearray(path.read_bytes())
    data[data.index(b"graph")] ^= 1
    path.write_bytes(data)
    with pytest.raises(CallerError, match=r"program\.onnx"):
        client.deploy(path)
    assert agent.calls == []


def test_rollback_lets_the_previous_version_serve(client, agent, bundle):
    client.deploy(bundle("1"))
    client.deploy(bundle("2"))
    assert client.rollback("linear") == ("a", "1")


def test_rollback_without_a_previous_version_is_the_callers_mistake(client):
    with pytest.raises(RefusedError, match="no previous slot"):
        client.rollback("linear")


def test_status_says_what_runs(client, bundle):
    client.deploy(bundle("1"))
    status = client.status()
    assert (status.node, status.device.profile, status.device.health) == ("bench", "ideal", {"age_s": 2.5})
    serving = status.models[0].serving
    assert serving is not None
    assert serving.version == "1"
    assert serving.self_test is None


def test_self_test_reports_a_failure_as_it_is(client):
    report = client.self_test("linear")
    assert (report.passed, report.residual, report.tolerance, report.at_s) == (False, 0.3, 0.1, 7.0)


def test_nothing_listens(bundle):
    with connect("127.0.0.1:1", timeout_s=5.0) as client, pytest.raises(AgentUnreachableError) as caught:
        client.deploy(bundle("1"))
    assert "127.0.0.1:1" in caught.value.message
    assert "hyle agent run" in caught.value.remedy

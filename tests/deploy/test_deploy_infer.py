"""Asking a model: arrays there and back, and what a broken or refusing agent becomes."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
from hyle_deploy.channel import AddressError, open_channel
from hyle_deploy.client import connect
from hyle_deploy.failures import AgentError, AgentUnreachableError, NotAllowedError, RefusedError
from hyle_deploy.tensors import DatatypeError, read_response, write_request
from hyle_errors import CallerError, HyleError
from hyle_protos.inference import inference_pb2 as oip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

TYPED = {
    "BOOL": ("bool", "?"),
    "UINT8": ("uint", "u1"),
    "UINT16": ("uint", "u2"),
    "UINT32": ("uint", "u4"),
    "UINT64": ("uint64", "u8"),
    "INT8": ("int", "i1"),
    "INT16": ("int", "i2"),
    "INT32": ("int", "i4"),
    "INT64": ("int64", "i8"),
    "FP32": ("fp32", "f4"),
    "FP64": ("fp64", "f8"),
}
DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def echo(request: oip.ModelInferRequest, *, raw: bool = True) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse()
    for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True):
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(data)
        else:
            field, dtype = TYPED[tensor.datatype]
            getattr(output.contents, f"{field}_contents").extend(np.frombuffer(data, dtype).tolist())
    return response


@given(data=st.data(), dtype=st.sampled_from(DTYPES), order=st.sampled_from("<>"), raw=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_array_comes_back_as_it_went(data, dtype, order, raw):
    raw = raw or dtype == "f2"
    wanted = np.dtype(dtype).newbyteorder(order) if dtype not in {"?", "u1", "i1"} else np.dtype(dtype)
    array = data.draw(hnp.arrays(wanted, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    back = read_response(echo(write_request("m", {"x": array}), raw=raw))["x"]
    assert back.shape == array.shape
    assert back.dtype == wanted.newbyteorder("=")
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_an_array_that_is_not_contiguous_is_sent_in_row_major_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(read_response(echo(write_request("m", {"x": array})))["x"], array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1 + 2j]), np.array([None], dtype=object)])
def test_what_has_no_datatype_is_refused_with_the_list_of_those_that_do(array):
    with pytest.raises(DatatypeError) as caught:
        write_request("m", {"x": array})
    assert "FP32" in caught.value.remedy


def malformed(name: str) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(raw_output_contents=[b"1234"])
    output = response.outputs.add(name="y", datatype="FP32", shape=[1])
    if name == "too short":
        response.raw_output_contents[0] = b"12"
    elif name == "unknown datatype":
        output.datatype = "BF16"
    elif name == "negative shape":
        output.shape[:] = [-1]
    elif name == "more contents than outputs":
        response.raw_output_contents.append(b"")
    elif name == "no elements":
        del response.raw_output_contents[:]
    return response


@pytest.mark.parametrize(
    "name", ["too short", "unknown datatype", "negative shape", "more contents than outputs", "no elements"]
)
def test_a_malformed_answer_is_the_agents_fault(name):
    with pytest.raises(AgentError, match="malformed"):
        read_response(malformed(name))


def test_the_answer_is_the_models(client, weights):
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    answer = client.infer("linear", {"x": x})
    assert list(answer) == ["y"]
    np.testing.assert_array_equal(answer["y"], x @ weights)


def test_wanted_outputs_and_version_reach_the_agent(client, agent):
    asked = []
    agent.answer = lambda request: asked.append(request) or echo(request)
    client.infer("linear", {"x": np.zeros((1, 4), np.float32)}, version="2", outputs=["x"])
    assert asked[0].model_version == "2"
    assert [output.name for output in asked[0].outputs] == ["x"]


def test_metadata_says_what_a_model_takes(client):
    info = client.metadata("linear")
    assert (info.name, info.versions) == ("linear", ("1",))
    assert [(spec.name, spec.datatype, spec.shape) for spec in info.inputs] == [("x", "FP32", (-1, 4))]


def test_an_unknown_model_is_the_callers_mistake(client):
    with pytest.raises(RefusedError, match="'nobody'"):
        client.metadata("nobody")


@pytest.mark.parametrize("call", ["ModelInfer", "ModelMetadata", "Status"])
def test_a_call_that_is_safe_to_repeat_survives_a_moment_of_absence(client, agent, call):
    agent.failures[call] = [(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
    ask = {
        "ModelInfer": lambda: client.infer("linear", {"x": np.zeros((1, 4), np.float32)}),
        "ModelMetadata": lambda: client.metadata("linear"),
        "Status": client.status,
    }
    ask[call]()
    assert agent.calls.count(call) == 3


def test_retries_are_bounded(client, agent):
    agent.failures["Status"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")] * 50
    with pytest.raises(AgentUnreachableError):
        client.status()
    assert agent.calls.count("Status") == 4


def test_inference_is_repeated_when_the_agent_is_overloaded(client, agent):
    agent.failures["ModelInfer"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")]
    assert client.infer("linear", {"x": np.zeros((2, 4), np.float32)})["y"].shape == (2, 3)


def test_rollback_is_never_repeated(client, agent):
    agent.failures["Rollback"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")]
    with pytest.raises(AgentUnreachableError):
        client.rollback("linear")
    assert agent.calls.count("Rollback") == 1


def test_a_deadline_that_passes_says_so(address, agent):
    released = threading.Event()
    agent.answer = lambda request: (released.wait(20.0), echo(request))[1]
    try:
        with connect(address, timeout_s=0.2) as client, pytest.raises(AgentUnreachableError, match="in time") as caught:
            client.infer("linear", {"x": np.zeros((1, 4), np.float32)})
        assert "--timeout" in caught.value.remedy
    finally:
        released.set()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_becomes_an_error_with_a_remedy(client, agent, code):
    agent.failures["Rollback"] = [(code, "words of the agent")]
    with pytest.raises(HyleError, match="words of the agent") as caught:
        client.rollback("linear")
    assert caught.value.remedy.endswith(".")
    assert "127.0.0.1" in caught.value.message


def test_a_model_that_is_not_ready_is_not_taken_for_an_agent_that_is_not_there(client, agent):
    agent.failures["Rollback"] = [(grpc.StatusCode.UNAVAILABLE, "Model 'linear' is not loaded.")]
    agent.remedy = "Activate or load it first."
    with pytest.raises(AgentError, match="refused: Model 'linear' is not loaded") as caught:
        client.rollback("linear")
    assert caught.value.remedy == agent.remedy


def test_an_answer_without_words_names_its_status(client, agent):
    agent.failures["Rollback"] = [(grpc.StatusCode.UNAUTHENTICATED, "")]
    with pytest.raises(NotAllowedError, match="UNAUTHENTICATED"):
        client.rollback("linear")


def test_a_server_that_is_no_agent_is_named_so():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with connect(f"127.0.0.1:{port}") as client, pytest.raises(RefusedError) as caught:
            client.status()
        assert "hyle agent" in caught.value.remedy
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:0", "host:65536", "host:http", "host:²"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(AddressError, match="HOST:PORT"):
        open_channel(address)


def test_errors_of_the_caller_and_of_the_world_leave_with_their_own_exit_code():
    assert issubclass(RefusedError, CallerError)
    assert AgentUnreachableError.exit_code == 1
    assert RefusedError.exit_code == 2


WORDS = [b"cat", b"", "k\u00e4fer".encode(), b"\xff\x00"]


@pytest.mark.parametrize("raw", [True, False])
def test_names_come_back_as_text(raw):
    response = oip.ModelInferResponse()
    output = response.outputs.add(name="y", datatype="BYTES", shape=[2, 2])
    if raw:
        response.raw_output_contents.append(b"".join(len(word).to_bytes(4, "little") + word for word in WORDS))
    else:
        output.contents.bytes_contents.extend(WORDS)
    got = read_response(response)["y"]
    # NumPy's text ends before zeros.
    assert got.tolist() == [["cat", ""], ["k\u00e4fer", "\udcff"]]
    assert got.dtype.kind == "U"


@pytest.mark.parametrize("raw", [b"\x03\0\0\0ca", b"\x03\0", b"\xff\xff\xff\xffcat", b"\x03\0\0\0cat\x01\0\0\0x"])
def test_names_that_do_not_fit_their_contents_are_malformed(raw):
    response = oip.ModelInferResponse()
    response.outputs.add(name="y", datatype="BYTES", shape=[1])
    response.raw_output_contents.append(raw)
    with pytest.raises(AgentError, match="'y' has"):
        read_response(response)

"""Every datatype, raw and typed, there and back; and every way of getting one wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hyle_agent.datatypes import DATATYPES, datatype
from hyle_agent.errors import RequestError
from hyle_agent.inference import _batch
from hyle_agent.tensors import decode_raw, decode_typed, encode
from hyle_bundle.manifest import TensorInfo
from hyle_protos.inference import inference_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NUMBERS = [name for name in DATATYPES if name != "BYTES"]
TYPED = [name for name in DATATYPES if DATATYPES[name].field]


def info(name: str, *shape: int) -> TensorInfo:
    return TensorInfo("x", name, shape)


def finite(name: str) -> st.SearchStrategy:
    shape = hnp.array_shapes(max_dims=3, max_side=4)
    kind = DATATYPES[name]
    bounds = {"allow_nan": False, "allow_infinity": False} if kind.is_float else {}
    return hnp.arrays(kind.element, shape, elements=hnp.from_dtype(kind.element, **bounds))


@pytest.mark.parametrize("name", NUMBERS)
def test_raw_contents_come_back_as_they_went(name: str) -> None:
    @given(finite(name))
    def law(values: np.ndarray) -> None:
        back = decode_raw(info(name), values.shape, encode(values, name))
        assert back.dtype == values.dtype
        np.testing.assert_array_equal(back, values)

    law()


@pytest.mark.parametrize("name", [name for name in TYPED if name != "BYTES"])
def test_typed_contents_say_the_same_as_raw_ones(name: str) -> None:
    @given(finite(name))
    def law(values: np.ndarray) -> None:
        contents = pb.InferTensorContents(**{DATATYPES[name].field: values.ravel().tolist()})
        np.testing.assert_array_equal(decode_typed(info(name), values.shape, contents), values)

    law()


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=6))
def test_bytes_come_back_as_they_went(parts: list[bytes]) -> None:
    values = np.empty(len(parts), object)
    values[:] = parts
    back = decode_raw(info("BYTES"), (len(parts),), encode(values, "BYTES"))
    assert back.tolist() == parts
    typed = decode_typed(info("BYTES"), (len(parts),), pb.InferTensorContents(bytes_contents=parts))
    assert typed.tolist() == parts


def test_strings_of_an_output_travel_as_utf8() -> None:
    assert encode(np.array(["é"]), "BYTES") == struct.pack("<I", 2) + "é".encode()


@pytest.mark.parametrize("data", [b"\1", b"\5\0\0\0ab", b"\0\0\0\0\0\0\0\0", b""])
def test_bytes_that_do_not_fit_their_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="raw_input_contents"):
        decode_raw(info("BYTES"), (1,), data)


def test_a_bool_is_zero_or_one() -> None:
    with pytest.raises(RequestError, match="0 or 1"):
        decode_raw(info("BOOL"), (2,), b"\0\2")


@pytest.mark.parametrize(("name", "value"), [("INT8", 128), ("INT16", -40000), ("UINT8", 256), ("UINT16", 2**17)])
def test_a_typed_value_out_of_range_is_refused_and_not_wrapped(name: str, value: int) -> None:
    contents = pb.InferTensorContents(**{DATATYPES[name].field: [value]})
    with pytest.raises(RequestError, match="out of its range"):
        decode_typed(info(name), (1,), contents)


def test_half_precision_travels_raw_only() -> None:
    with pytest.raises(RequestError, match="raw_input_contents for FP16"):
        decode_typed(info("FP16"), (1,), pb.InferTensorContents(fp32_contents=[1.0]))


def test_an_unknown_datatype_names_the_known_ones() -> None:
    with pytest.raises(RequestError, match="FP128") as caught:
        datatype("FP128")
    assert "FP32" in caught.value.remedy


def test_inputs_must_agree_on_the_number_of_samples() -> None:
    from agent_fakes import manifest_of
    from msgspec.structs import replace

    two = (TensorInfo("a", "FP32", (-1, 2)), TensorInfo("b", "FP32", (-1, 2)), TensorInfo("c", "FP32", (1,)))
    manifest = replace(manifest_of("m", 1), inputs=two)
    arrays = {"a": np.zeros((2, 2)), "b": np.zeros((3, 2)), "c": np.zeros(1)}
    with pytest.raises(RequestError, match="same number of samples"):
        _batch(manifest, arrays)
    assert _batch(manifest, {**arrays, "b": np.zeros((2, 2))}) == 2

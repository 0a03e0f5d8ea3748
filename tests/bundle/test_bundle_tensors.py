from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hyle_bundle import TensorError, TensorFile, TensorSpec, tensor_layout, write_tensors
from hyle_bundle.tensor_spec import DTYPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NUMERIC = [word for word in DTYPES if word != "BF16"]
arrays = st.sampled_from(NUMERIC).flatmap(
    lambda word: hnp.arrays(DTYPES[word], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
maps = st.dictionaries(st.text("abcXYZ019/._é界", min_size=1, max_size=12), arrays, max_size=8)


def written(path: Path, tensors: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return write_tensors(path, [(TensorSpec.of(name, array), array) for name, array in tensors.items()])


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def record(dtype: str = "F32", shape: object = (2,), span: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=maps)
def test_what_is_written_is_read_back_by_us_and_by_the_reference(tmp_path: Path, tensors: dict[str, Any]) -> None:
    path = tmp_path / "t.safetensors"
    layout = written(path, tensors)
    data = path.read_bytes()
    theirs, ours = safetensors.numpy.load(data), TensorFile(data)
    assert set(ours.names) == set(theirs) == set(tensors) == set(layout)
    for name, array in tensors.items():
        assert ours.spec(name) == TensorSpec.of(name, array)
        for got in (ours.array(name), theirs[name]):
            assert got.shape == array.shape
            assert got.dtype == array.dtype
            assert got.tobytes() == array.tobytes()
        offset, size = layout[name]
        assert ours.offset(name) == offset
        assert data[offset : offset + size] == array.tobytes()


@settings(deadline=None, max_examples=80)
@given(tensors=maps)
def test_what_the_reference_writes_is_read(tensors: dict[str, Any]) -> None:
    ours = TensorFile(safetensors.numpy.save(tensors, metadata={"by": "someone"}))
    assert set(ours.names) == set(tensors)
    for name, array in tensors.items():
        assert ours.array(name).tobytes() == array.tobytes()
        assert ours.array(name).shape == array.shape


@settings(deadline=None)
@given(tensors=maps)
def test_the_layout_is_known_before_any_data_and_follows_the_order_of_the_reference(tensors: dict[str, Any]) -> None:
    layout = tensor_layout(TensorSpec.of(name, array) for name, array in tensors.items())
    sizes = [tensors[name].dtype.itemsize for name in layout]
    assert sizes == sorted(sizes, reverse=True)
    if layout:
        assert next(iter(layout.values()))[0] % 64 == 0
    for name, (offset, _) in layout.items():
        assert offset % tensors[name].dtype.itemsize == 0


def test_bfloat16_is_read_as_its_bit_patterns_and_is_what_the_reference_calls_bfloat16(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    write_tensors(tmp_path / "t", [(TensorSpec("b", "BF16", (2,)), bits)])
    data = (tmp_path / "t").read_bytes()
    assert TensorFile(data).array("b").tolist() == bits.tolist()
    ((name, theirs),) = safetensors.deserialize(data)
    assert (name, theirs["dtype"], theirs["shape"], bytes(theirs["data"])) == ("b", "BF16", [2], bits.tobytes())


def test_arrays_chunks_and_functions_give_the_same_bytes_and_so_does_another_order(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(5, dtype=np.int8)
    specs = [TensorSpec.of("a", a), TensorSpec.of("b", b)]
    write_tensors(tmp_path / "1", zip(specs, [a, b], strict=True))
    write_tensors(
        tmp_path / "2", [(specs[1], lambda: b), (specs[0], [a.tobytes()[:7], b"", memoryview(a.tobytes())[7:]])]
    )
    big_endian, strided = a.astype(">f4"), np.repeat(b, 2)[::2]
    write_tensors(tmp_path / "3", zip(specs, [big_endian, strided], strict=True))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == (tmp_path / "3").read_bytes()


def test_arrays_are_views_of_the_buffer_and_cannot_be_written(tmp_path: Path) -> None:
    written(tmp_path / "t", {"a": np.zeros(4, np.float32)})
    buffer = bytearray((tmp_path / "t").read_bytes())
    file = TensorFile(memoryview(buffer))
    array = file.array("a")
    struct.pack_into("<f", buffer, file.offset("a"), 7.0)
    assert array[0] == 7.0
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shorter"),
        (b"\0" * 7, "shorter"),
        (struct.pack("<Q", 2**63) + b"{}", "claims"),
        (struct.pack("<Q", 3) + b"{}", "claims"),
        (struct.pack("<Q", 100_000_001) + b"{}" + b" " * 99_999_999, "claims 100000001"),
        (file_of(b""), "no JSON object"),
        (file_of(b"[]"), "no JSON object"),
        (file_of(b' {"a":1}'), "no JSON object"),
        (file_of(b"{"), "cannot be read"),
        (file_of(b"{}{}"), "cannot be read"),
        (file_of(b'{"\xff":1}'), "cannot be read"),
        (file_of("{}".encode("utf-16")), "no JSON object"),
        (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "cannot be read"),
        (file_of(b'{"a":' + b"9" * 5000 + b"}"), "cannot be read"),
        (file_of({"__metadata__": {"a": 1}}), "cannot be read"),
        (file_of({"__metadata__": []}), "cannot be read"),
        (file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "cannot be read"),
        (file_of({"a": {**record(), "more": 1}}, bytes(8)), "cannot be read"),
        (file_of({"a": record(shape=[-2])}, bytes(8)), "cannot be read"),
        (file_of({"a": record(shape=[True, 2])}, bytes(8)), "cannot be read"),
        (file_of({"a": record(span=[0, 8, 16])}, bytes(8)), "cannot be read"),
        (file_of({"a": record(span=[-8, 0])}, bytes(8)), "cannot be read"),
        (file_of(b'{"a":%b,"a":%b}' % ((json.dumps(record()).encode(),) * 2), bytes(8)), "twice"),
        (file_of({"a": record("F4")}, bytes(8)), "type F4"),
        (file_of({"a": record(shape=[3])}, bytes(8)), "not as large"),
        (file_of({"a": record(shape=[2**40, 2**40])}, bytes(8)), "impossible shape"),
        (file_of({"a": record(shape=[0, 2**40, 2**40], span=[0, 0])}), "impossible shape"),
        (file_of({"a": record(shape=[1] * 33)}, bytes(8)), "impossible shape"),
        (file_of({"a": record(span=[8, 0])}, bytes(8)), "overlaps"),
        (file_of({"a": record(span=[8, 16])}, bytes(16)), "overlaps"),
        (file_of({"a": record(), "b": record()}, bytes(8)), "overlaps"),
        (file_of({"a": record(), "b": record(span=[4, 12])}, bytes(12)), "overlaps"),
        (file_of({"a": record(), "b": record(span=[12, 20])}, bytes(20)), "overlaps"),
        (file_of({"a": record()}, bytes(7)), "8 bytes, its data 7"),
        (file_of({"a": record()}, bytes(9)), "8 bytes, its data 9"),
        (file_of({}, b"x"), "0 bytes, its data 1"),
        (file_of({"": record()}, bytes(8)), "cannot name"),
        (file_of({"a\n": record()}, bytes(8)), "cannot name"),
        (file_of(b'{"\\ud800":%b}' % json.dumps(record()).encode(), bytes(8)), "cannot name"),
    ],
)
def test_a_file_that_lies_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        TensorFile(data)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200), header=st.text('{}[]",:0123456789adeflnpsty_ F32', max_size=80))
def test_random_bytes_and_random_headers_are_refused_or_read_but_never_crash(data: bytes, header: str) -> None:
    for candidate in (data, file_of(header.encode(), data)):
        try:
            file = TensorFile(candidate)
        except TensorError:
            continue
        for name in file.names:
            file.array(name)


def test_a_flip_of_any_header_bit_is_refused_or_leaves_every_tensor_inside_the_file(tmp_path: Path) -> None:
    written(tmp_path / "t", {"a": np.ones((3, 2), np.float32), "b": np.ones(5, np.int8)})
    data = (tmp_path / "t").read_bytes()
    for bit in range(8 * TensorFile(data).offset("a")):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            file = TensorFile(bytes(bad))
        except TensorError:
            continue
        assert sum(file.array(name).nbytes for name in file.names) == 29


@pytest.mark.parametrize(
    ("spec", "data", "reason"),
    [
        (TensorSpec("a", "F32", (2,)), np.zeros(3, np.float32), "not F32"),
        (TensorSpec("a", "F32", (2,)), np.zeros(2, np.int32), "not F32"),
        (TensorSpec("a", "F32", (2,)), [bytes(7)], "8 bytes"),
        (TensorSpec("a", "F32", (2,)), [bytes(8), bytes(1)], "8 bytes"),
        (TensorSpec("a", "F31", (2,)), [bytes(8)], "type F31"),
        (TensorSpec("a", "F32", (-2,)), [bytes(8)], "impossible"),
        (TensorSpec("", "F32", (2,)), [bytes(8)], "cannot name"),
        (TensorSpec("__metadata__", "F32", (2,)), [bytes(8)], "cannot name"),
    ],
)
def test_data_that_is_not_what_its_spec_says_leaves_no_file(
    tmp_path: Path, spec: TensorSpec, data: Any, reason: str
) -> None:
    with pytest.raises(TensorError, match=reason):
        write_tensors(tmp_path / "t", [(spec, data)])
    assert list(tmp_path.iterdir()) == []


def test_a_name_twice_an_unknown_type_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    spec = TensorSpec("a", "I8", (1,))
    with pytest.raises(TensorError, match="twice"):
        tensor_layout([spec, spec])
    with pytest.raises(TensorError, match="complex128"):
        TensorSpec.of("a", np.zeros(2, complex))
    written(tmp_path / "t", {"a": np.zeros(1, np.int8)})
    file = TensorFile((tmp_path / "t").read_bytes())
    for ask in (file.array, file.offset, file.spec):
        with pytest.raises(TensorError, match="no tensor 'b'"):
            ask("b")


def test_a_header_over_the_limit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyle_bundle.tensors.MAX_HEADER_BYTES", 100)
    with pytest.raises(TensorError, match="more than 100 bytes"):
        written(tmp_path / "t", {f"tensor{i}": np.zeros(1, np.int8) for i in range(3)})
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_memory_for_one_tensor_only(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import numpy as np
from hyle_bundle import TensorSpec, write_tensors
spec = [TensorSpec(f"t{i}", "F32", (2 << 20,)) for i in range(24)]
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
write_tensors(Path(sys.argv[1]), [(s, lambda i=i: np.full(2 << 20, i, np.float32)) for i, s in enumerate(spec)])
print(peak() - before)
"""
    path = tmp_path / "t.safetensors"
    done = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, timeout=60)
    # 24 tensors of 8 MiB: the one being written and the one being made, and as much again for the allocator.
    assert int(done.stdout) < 4 * 8 * 1024
    assert path.stat().st_size > 24 * (8 << 20)


def test_an_iterator_of_chunks_is_drawn_only_when_its_turn_comes(tmp_path: Path) -> None:
    drawn: list[str] = []

    def chunks(name: str) -> Iterator[bytes]:
        drawn.append(name)
        yield bytes(4)

    write_tensors(tmp_path / "t", [(TensorSpec(name, "F32", (1,)), chunks(name)) for name in "cab"])
    assert drawn == ["a", "b", "c"]

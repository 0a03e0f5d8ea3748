"""Bombs, links, lengths that lie and metadata without end: refused, within bounded memory."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import hyle_bundle.bundle
import numpy as np
import pytest
from agent_fakes import Operator, config_for, make_bundle, running
from hyle_bundle import BundleError, SignatureError, TensorFile, TensorSpec, open_bundle, write_tensors
from hyle_bundle.container import ContainerError, Member, write_container
from hyle_bundle.content import measure
from hyle_bundle.layout import Entry, lay_out
from hyle_bundle.tensor_spec import MAX_HEADER_BYTES, TensorError
from hyle_bundle.writer import write_bundle
from hyle_errors import CallerError
from hyle_protos.control import control_pb2 as pb
from test_agent_command import Served
from test_agent_control import refused, version_that_answers
from test_agent_footprint import resident_mb
from victims import Victim

MEGABYTE = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Nothing that Python allocates here may take more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def contents(path: Path) -> dict[str, bytes]:
    with open_bundle(path) as bundle:
        return {name: bytes(bundle.read(name)) for name in bundle.names}


def put(path: Path, files: dict[str, bytes]) -> Path:
    write_container(path, {name: Member(data, measure(data)) for name, data in files.items()})
    return path


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    path = make_bundle(tmp_path, 1)
    open_bundle(path).close()
    return path


def test_a_zip_bomb(tmp_path: Path, honest: Path) -> None:
    bomb = tmp_path / "bomb.hyle"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(honest).items():
            archive.writestr(name, data if name == "bundle.json" else bytes(64 * MEGABYTE))
    with zipfile.ZipFile(bomb) as archive:
        assert sum(info.file_size for info in archive.infolist()) > 250 * MEGABYTE > 100 * bomb.stat().st_size
    with memory_below(MEGABYTE), pytest.raises(ContainerError, match="is not canonical"):
        open_bundle(bomb)


def test_a_zip_bomb_of_files_that_lie_over_one_another(tmp_path: Path) -> None:
    """A thousand entries of the directory that all claim the same bytes, as in a bomb that needs no recursion."""
    kernel = bytes(MEGABYTE)
    whole = lay_out([Entry("a", len(kernel), zlib.crc32(kernel))])
    (header,) = whole.placed
    entries = [lay_out([Entry(f"f{n:04}", len(kernel), zlib.crc32(kernel))]).tail[:-22] for n in range(1000)]
    directory = b"".join(entries)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1000, 1000, len(directory), len(header.header) + len(kernel), 0)
    bomb = tmp_path / "bomb.hyle"
    bomb.write_bytes(header.header + kernel + directory + end)
    with zipfile.ZipFile(io.BytesIO(bomb.read_bytes())) as archive:
        assert sum(info.file_size for info in archive.infolist()) == 1000 * MEGABYTE
    with memory_below(8 * MEGABYTE), pytest.raises(ContainerError, match="asks for"):
        open_bundle(bomb)


def test_an_extra_file_in_the_container(tmp_path: Path, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = put(tmp_path / "extra.hyle", {**contents(honest), "evil.bin": b"evil"})
    with pytest.raises(BundleError, match=r"has the unlisted file evil\.bin"):
        open_bundle(attack)
    monkeypatch.setattr(hyle_bundle.bundle, "check_files", lambda *_: None)
    assert open_bundle(attack).read("evil.bin") == b"evil"


def test_a_swapped_file_in_the_container(tmp_path: Path, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = contents(honest)
    attack = put(tmp_path / "swapped.hyle", {**files, "segments/0.bin": files["segments/0.bin"][::-1]})
    with pytest.raises(BundleError, match=r"segments/0\.bin in swapped\.hyle .* SHA-256 differs"):
        open_bundle(attack)
    monkeypatch.setattr(hyle_bundle.bundle, "check_content", lambda *_: None)
    assert open_bundle(attack).read("segments/0.bin") == files["segments/0.bin"][::-1]


def test_a_symbolic_link_in_the_container(tmp_path: Path, honest: Path) -> None:
    """The external attributes of a link to /etc/passwd, whose target is the file's content."""
    attack = bytearray(put(tmp_path / "link.hyle", {**contents(honest), "evil": b"/etc/passwd"}).read_bytes())
    at = attack.rindex(b"PK\1\2", 0, attack.rindex(b"evil"))
    struct.pack_into("<I", attack, at + 38, 0o120777 << 16)
    (tmp_path / "link.hyle").write_bytes(attack)
    with zipfile.ZipFile(tmp_path / "link.hyle") as archive:
        assert archive.getinfo("evil").external_attr >> 16 == 0o120777
    with pytest.raises(ContainerError, match="directory deviates"):
        open_bundle(tmp_path / "link.hyle")


def tensor_file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def lying(**changes: object) -> bytes:
    record = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}
    return tensor_file(json.dumps({"a": record}).encode(), bytes(24))


LIES: dict[str, Callable[[], bytes]] = {
    "a header as long as an address space": lambda: tensor_file(b"{}", b"", 2**63),
    "a header longer than the file": lambda: tensor_file(b"{}", b"", 4096),
    "a shape that is larger than the data": lambda: lying(shape=[2**20, 2**20]),
    "a shape that overflows": lambda: lying(shape=[2**33, 2**33, 2**33]),
    "a shape that is smaller than the data": lambda: lying(shape=[1, 3]),
    "a shape with a negative size": lambda: lying(shape=[-2, -3]),
    "an end behind the file": lambda: lying(data_offsets=[0, 2**40], shape=[2**38]),
    "an end before the start": lambda: lying(data_offsets=[24, 0]),
    "a start before the data": lambda: lying(data_offsets=[-8, 16]),
    "an element type of another size": lambda: lying(dtype="F64"),
    "an element type that is none": lambda: lying(dtype="F4096"),
    "no data at all": lambda: lying()[:-24],
    "data that no tensor owns": lambda: lying() + bytes(8),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_about_a_tensors_length(lie: str) -> None:
    assert TensorFile(lying()).array("a").shape == (2, 3)
    with memory_below(MEGABYTE), pytest.raises(TensorError):
        TensorFile(LIES[lie]())


def test_a_lying_header_in_a_bundle_that_a_trusted_key_signed_is_refused_by_the_agent(tmp_path: Path) -> None:
    """The real executor: the signature vouches for the bytes, and the bytes are still not believed."""
    from hyle_bundle import generate_key, load_private_key
    from test_agent_real_bundle import compile_digits

    generate_key("me", tmp_path)
    bundle = compile_digits(tmp_path, "1")
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        files = {name: bytes(opened.read(name)) for name in manifest.files}
    programming = files["programming.safetensors"]
    (length,) = struct.unpack_from("<Q", programming)
    header = json.loads(programming[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"][0] *= 1000
    bad = tensor_file(json.dumps(header).encode(), programming[8 + length :])
    attack = tmp_path / "attack.hyle"
    write_bundle(attack, manifest, {**files, "programming.safetensors": bad}, load_private_key(tmp_path / "me.key"))
    with (
        Served(tmp_path, "--trust", str(tmp_path / "me.pub")) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        operator = Operator(channel)
        error = refused(operator.install, attack)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "is not as large as its shape says" in error.details()
        assert operator.deploy(bundle).self_test.passed


def test_metadata_without_end(tmp_path: Path, honest: Path) -> None:
    """A manifest and a signature beyond their limits are not even read; a tensor header is not beyond its own."""
    files = contents(honest)
    large = put(tmp_path / "m.hyle", {**files, "bundle.json": files["bundle.json"] + b" " * (65 * MEGABYTE)})
    with memory_below(MEGABYTE), pytest.raises(BundleError, match=r"bundle\.json in m\.hyle is larger than"):
        open_bundle(large)
    signed = put(tmp_path / "s.hyle", {**files, "signature.dsse.json": b"[" * (17 * MEGABYTE)})
    with memory_below(40 * MEGABYTE), pytest.raises(SignatureError, match="is larger than"):
        open_bundle(signed)
    with (tmp_path / "t.safetensors").open("wb") as sparse:
        sparse.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        sparse.truncate(MAX_HEADER_BYTES + 100)
    mapped = memoryview(np.memmap(tmp_path / "t.safetensors", np.uint8, "r"))
    with memory_below(MEGABYTE), pytest.raises(TensorError, match="its header claims 100000001 bytes"):
        TensorFile(mapped)
    write_tensors(tmp_path / "ok.safetensors", [(TensorSpec.of("a", np.zeros(3)), np.zeros(3))])
    assert TensorFile((tmp_path / "ok.safetensors").read_bytes()).names == ("a",)


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b'{"files":{"a":' + b"[" * 100_000])
def test_json_that_is_nested_without_end(tmp_path: Path, honest: Path, deep: bytes) -> None:
    with pytest.raises(CallerError):
        open_bundle(put(tmp_path / "d.hyle", {**contents(honest), "bundle.json": deep}))


@pytest.mark.parametrize("engine", ["completion-queue", "aio"])
def test_requests_beyond_the_limit_in_clear_compressed_and_in_their_headers(tmp_path: Path, engine: str) -> None:
    (tmp_path / "agent.toml").write_text(f'engine = "{engine}"\nmax_message_mb = 4\n')
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 24)]
    with (
        Served(tmp_path, "--insecure", "--config", str(tmp_path / "agent.toml")) as served,
        grpc.insecure_channel(served.address, options=options) as channel,
    ):
        operator = Operator(channel)
        operator.stub.Status(pb.StatusRequest(), compression=grpc.Compression.Gzip, metadata=(("a", "b"),))
        before = resident_mb(served.process.pid)
        bomb = pb.PlanRequest(manifest=bytes(128 * MEGABYTE))
        assert refused(operator.stub.Plan, pb.PlanRequest(manifest=bytes(5 * MEGABYTE))).code() is exhausted
        with pytest.raises(grpc.RpcError) as caught:
            operator.stub.Plan(bomb, compression=grpc.Compression.Gzip, timeout=60)
        assert caught.value.code() is exhausted
        with pytest.raises(grpc.RpcError) as caught:
            operator.stub.Status(pb.StatusRequest(), metadata=(("x", "y" * 4 * MEGABYTE),), timeout=30)
        assert caught.value.code() is exhausted
        assert operator.stub.Status(pb.StatusRequest()).node
        # What a refused message may leave: the limit of 4 MiB, received and inflated, and what the allocator keeps.
        assert resident_mb(served.process.pid) - before < 32


def test_an_attacked_agent_still_serves(victim: Victim) -> None:
    for manifest in (b"", b"{", b"\xff" * 1000, b"[" * 100_000, bytes(MEGABYTE)):
        assert refused(victim.operator.stub.Install, pb.InstallRequest(manifest=manifest)).code() is not None
        signature = manifest[:1000]
        refused(victim.operator.stub.Plan, pb.PlanRequest(manifest=manifest, signature=signature))
    assert version_that_answers(victim.channel) == 1
    config = config_for(victim.store.parent / "other", insecure=True)
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        error = refused(Operator(channel).stub.Install, pb.InstallRequest(manifest=b"[" * 100_000))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

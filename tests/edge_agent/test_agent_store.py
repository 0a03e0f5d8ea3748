"""Slots on a disk that fills up, that is read-only, and whose files are not what an agent wrote."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from agent_fakes import Operator, config_for, debris, make_bundle, running
from hyle_agent.disk import explained, replace_file
from hyle_agent.errors import StoreError, StoreFullError
from hyle_agent.slots import ModelState, SlotRecord, decode_state, encode_state
from hyle_agent.store import Store
from hyle_bundle import open_bundle
from hyle_protos.control import control_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from small_disks import tmpfs
from test_agent_control import refused, version_that_answers

RECORDS = st.builds(SlotRecord, st.text(max_size=8), st.text(max_size=8), st.integers(0, 2**53), st.text(max_size=8))


@given(st.dictionaries(st.sampled_from("ab"), RECORDS), st.data())
def test_a_state_reads_back_as_it_was_written(slots: dict[str, SlotRecord], data: st.DataObject) -> None:
    letters = st.sampled_from(["", *sorted(slots)])
    state = ModelState(data.draw(letters), data.draw(letters), slots)
    assert decode_state(encode_state(state), Path("state.json")) == state


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=12))
def test_an_install_never_writes_the_slot_that_serves(steps: list[tuple[bool, int]]) -> None:
    state = ModelState()
    for activate, number in steps:
        if activate and state.idle in state.slots:
            before = state.active
            state = state.with_active(state.idle)
            assert state.previous == before
        else:
            served = state.slots.get(state.active)
            state = state.with_slot(state.idle, SlotRecord(str(number), "", number, ""))
            assert state.slots.get(state.active) == served
        assert {state.active, state.previous} - {""} <= set(state.slots)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"active":"c"}', b'{"active":"a"}', b'{"unknown":1}', b"\xff", b'{"previous":"b"}']
)
def test_a_state_that_no_agent_wrote_is_named(store: Path, raw: bytes) -> None:
    (store / "models/m").mkdir(parents=True)
    (store / "models/m/state.json").write_bytes(raw)
    with pytest.raises(StoreError, match=r"models/m/state\.json is not a state"):
        Store(store)


def test_a_store_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file" / "store")


def test_a_store_holds_no_debris_after_a_start(store: Path) -> None:
    for folder in ("staging/draft", "models/m/" + "0" * 64, "blobs"):
        (store / folder).mkdir(parents=True)
    (store / "staging/upload-1").write_text("half")
    (store / "blobs/unused").write_text("unused")
    (store / "models/m/.state.json.new").write_text("half")
    (store / "models/stray").write_text("not a folder")
    Store(store).close()
    assert [path.name for path in (store / "models").iterdir()] == ["stray"]
    assert list((store / "blobs").iterdir()) == list((store / "staging").iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    replace_file(target, b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            replace_file(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StoreFullError), (errno.EDQUOT, StoreFullError), (errno.EROFS, StoreError)]
)
def test_what_the_disk_says_becomes_a_sentence(code: int, kind: type[StoreError]) -> None:
    with pytest.raises(kind) as caught, explained(Path("/store")):
        raise OSError(code, os.strerror(code))
    assert "/store" in caught.value.message


def outcome_of(operator: Operator, bundle: Path) -> object:
    try:
        operator.install(bundle)
    except grpc.RpcError as error:
        return error.code()
    return "installed"


STEPS = ("write", "fsync", "link", "rename", "replace", "mkdir", "open")


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_up_at_any_step_leaves_the_old_bundle_untouched(
    tmp_path: Path, store: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        bundle = make_bundle(tmp_path, 2)
        real, left = getattr(os, step), 0

        def failing(first: object, *rest: object, **options: object) -> object:
            nonlocal left
            path = first if isinstance(first, int) else str(first)
            ours = isinstance(path, int) or str(store) in path
            if step == "open":
                ours = ours and bool(rest[0] & os.O_CREAT)
            if ours and (left := left - 1) < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(first, *rest, **options)

        outcomes: list[object] = []
        for attempt in range(40):
            left = attempt
            with monkeypatch.context() as patch:
                patch.setattr(os, step, failing)
                outcomes.append(outcome_of(operator, bundle))
            assert version_that_answers(channel) == 1
            if outcomes[-1] == "installed":
                break
            assert [path for path in debris(store) if "blob" not in path] == []
        assert set(outcomes) == {"installed", grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert debris(store) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path, "128k") as folder:
        yield folder


def test_a_real_full_disk_is_said_clearly_and_the_old_bundle_serves(tmp_path: Path, small_disk: Path) -> None:
    store = small_disk / "store"
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        error = refused(operator.install, make_bundle(tmp_path, 2, padding=200_000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the disk has room for" in error.details()
        bundle = make_bundle(tmp_path, 3, padding=40_000)
        with (small_disk / "other").open("wb") as other:
            left = os.statvfs(small_disk)
            other.write(bytes(left.f_bavail * left.f_frsize - 45_000))
        error = refused(operator.install, bundle)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert version_that_answers(channel) == 1
        (small_disk / "other").unlink()
        assert operator.deploy(bundle).self_test.passed
        assert version_that_answers(channel) == 3
        assert debris(store) == []


def test_bundles_that_are_sent_and_never_installed_take_the_room_of_one(
    operator: Operator, tmp_path: Path, store: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    for version in range(2, 8):
        with open_bundle(make_bundle(tmp_path, version, padding=5000)) as bundle:
            operator.upload(bundle, operator.plan(bundle))
            wanted = {entry.sha256 for entry in bundle.manifest.files.values()}
    kept = {path.name for path in (store / "blobs").iterdir()}
    assert wanted <= kept
    assert len(kept - wanted) == 3  # what the serving slot has and the last bundle has not
    operator.deploy(make_bundle(tmp_path, 7, padding=5000))
    assert debris(store) == []


def test_a_store_that_is_gone_is_named(operator: Operator, channel: grpc.Channel, tmp_path: Path, store: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    store.rename(tmp_path / "elsewhere")
    error = refused(operator.install, make_bundle(tmp_path, 2))
    assert error.details() == f"The store {store} cannot be used: No such file or directory."
    assert version_that_answers(channel) == 1


def test_a_removal_that_the_disk_refuses_leaves_the_model_serving(
    operator: Operator, channel: grpc.Channel, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", read_only)
        error = refused(operator.stub.Remove, pb.RemoveRequest(model="small"))
    assert error.details() == f"The store {store} cannot be used: Read-only file system."
    assert version_that_answers(channel) == 1
    operator.stub.Remove(pb.RemoveRequest(model="small"))
    assert debris(store) == []

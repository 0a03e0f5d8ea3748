"""Pull the plug at any point of an agent's life, lose or tear whatever was not synced, and boot what is left.

The changes come from the kernel (strace of the real process), the states from `crash_disk`, which says what is assumed
of a file system. A boot must serve the version that was acknowledged last or the one that was being brought in, whole,
signed and proven by its self-test, and leave nothing lying about.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from booting import X, boot
from crash_disk import Enter, History, Operation, Rename, Sync, Tree, Write, apply
from hyle_protos.inference import inference_pb2, inference_pb2_grpc
from story import MODEL, NOTHING, ROWS, Story, live, serve, weights

# States a prefix; what comes of them in total is measured, and asserted.
IN_CI, AT_LENGTH = 8, 100
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # no real power cut happens; only speed differs


def may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not may_trace(), reason="strace is not installed or may not trace here")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return live(tmp_path_factory.mktemp("story"))


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "disk"


def replay(history: History, operations: Sequence[Operation]) -> Tree:
    tree = history.before.copy()
    for operation in operations:
        apply(tree, operation)
    return tree


def test_the_recording_misses_nothing_its_replay_is_the_disk_as_it_really_was(story: Story) -> None:
    assert [tree.digest() for tree in story.replayed] == [tree.digest() for tree in story.really]
    kinds = Counter(type(operation).__name__ for operation in story.history.operations)
    assert set(kinds) == {"Enter", "Remove", "Rename", "Write", "Sync"}
    assert kinds.total() > 200


def test_a_recording_that_missed_a_change_would_differ_from_the_disk(story: Story) -> None:
    installed, real = story.replayed[0], story.really[0].digest()
    before = story.history.operations[: story.marks[1]]
    there = {inode for _, inode in installed.paths()}
    lasting = [i for i, one in enumerate(before) if isinstance(one, Write) and one.inode in there]
    lasting += [
        i
        for i, one in enumerate(before)
        if isinstance(one, Enter | Rename) and installed.folders[one.folder].get(one.name) == one.inode
    ]
    assert len(lasting) > 40
    assert real not in [replay(story.history, before[:i] + before[i + 1 :]).digest() for i in lasting]


def wrong_with(state: Tree, place: Path, story: Story, happened: int) -> str:
    """Boot a state; "" or what is wrong with it."""
    place.mkdir()
    state.write_to(place)
    try:
        booted = boot(place / "store", story.key)
    except Exception as error:
        return f"it does not start: {error!r}"
    finally:
        shutil.rmtree(place)
    allowed = story.allowed(happened)
    if booted.serves not in allowed:
        return f"{sorted(allowed)} may serve: {booted}"
    if booted.floor < story.floor(happened):
        return f"counters from {story.floor(happened)} on were promised: {booted}"
    return f"{booted}" if booted.debris or (booted.serves != NOTHING and booted.reason) else ""


def sweep(story: Story, place: Path, each: int, seed: int, *, faults_at_most: int = 20) -> tuple[int, list[str]]:
    """Boot so many states of each prefix; returns how many distinct ones there were, and what was wrong with any."""
    chance, faults = random.Random(seed), []
    seen: set[tuple[str, ...]] = set()
    total = len(story.history.operations)
    for happened in chance.sample(range(total + 1), total + 1):
        fresh = 0
        for state in story.history.crashes(happened, chance, count=each):
            # A state that is fine before an activation may be a lost bundle after it.
            case = (state.digest(), f"{story.floor(happened)}", *sorted(story.allowed(happened)))
            if case not in seen:
                seen.add(case)
                fresh += 1
                if wrong := wrong_with(state, place, story, happened):
                    faults.append(f"after {happened} operations: {wrong}")
            if fresh >= each or len(faults) >= faults_at_most:
                break
    return len({digest for digest, *_ in seen}), faults


def test_1500_states_of_a_disk_that_lost_power_boot_into_the_old_or_the_new_bundle(story: Story, place: Path) -> None:
    states, faults = sweep(story, place, IN_CI, seed=1)
    assert faults == []
    assert states >= 1500


@pytest.mark.long
def test_10000_states_of_a_disk_that_lost_power_boot_into_the_old_or_the_new_bundle(story: Story, place: Path) -> None:
    states, faults = sweep(story, place, AT_LENGTH, seed=2)
    print(f"{states} distinct states of {len(story.history.operations)} operations, {len(faults)} faults")
    assert faults == []
    assert states >= 10_000


def unsynced(story: Story, spared: Callable[[int], bool]) -> Story:
    """The same life of an agent that does not sync what is not `spared`."""
    old = story.history
    folders = frozenset(old.before.folders)
    kept = [one for one in old.operations if not isinstance(one, Sync) or spared(one.inode)]
    return dataclasses.replace(story, history=History(old.before, kept, folders))


@pytest.mark.parametrize("what", ["files", "folders"])
def test_an_agent_that_did_not_sync_would_be_found_out(story: Story, place: Path, what: str) -> None:
    folders = frozenset(story.history.before.folders)
    careless = unsynced(story, lambda inode: (inode in folders) == (what == "files"))
    _, faults = sweep(careless, place, IN_CI, seed=3, faults_at_most=1)
    assert faults


def version_that_answers(address: str) -> str:
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, ROWS])
    request = inference_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[X.tobytes()])
    with grpc.insecure_channel(address) as channel:
        try:
            answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        except grpc.RpcError as error:
            return NOTHING if error.code() is grpc.StatusCode.NOT_FOUND else error.details()
    y = np.frombuffer(answer.raw_output_contents[0], "<f4")
    np.testing.assert_allclose(y, np.maximum(X @ weights(int(answer.model_version)), 0)[0], rtol=1e-4, atol=1e-4)
    return answer.model_version


def test_the_real_process_boots_such_states_as_well(story: Story, tmp_path: Path) -> None:
    chance, served = random.Random(4), Counter()
    total = len(story.history.operations)
    for number in range(8):
        happened = (number + 1) * total // 9
        states = list(story.history.crashes(happened, chance, count=4))
        folder = tmp_path / str(number)
        (folder / "disk").mkdir(parents=True)
        chance.choice(states).write_to(folder / "disk")
        with serve(folder, story.key, [sys.executable]) as (address, _):
            served[version_that_answers(address)] += 1
            assert set(served) <= {NOTHING, "1", "2", "3"}
            assert version_that_answers(address) in story.allowed(happened)
    assert len(served) >= 2

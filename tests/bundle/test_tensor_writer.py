from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hyle_bundle import TensorError, TensorSpec, TensorWriter, write_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

RNG = np.random.default_rng(0)
ARRAYS = {
    "levels": RNG.integers(-127, 127, (7, 5)).astype(np.int8),
    "gain": RNG.standard_normal(9).astype(np.float32),
    "half": RNG.standard_normal((2, 3, 4)).astype(np.float16),
    "number": np.array(3.0, dtype=np.float32),
    "nothing": np.zeros((0, 4), dtype=np.float32),
}
SPECS = [TensorSpec.of(name, array) for name, array in ARRAYS.items()]


@settings(deadline=None, max_examples=50)
@given(order=st.permutations(sorted(ARRAYS)), cut=st.integers(1, 8))
def test_pieces_in_any_order_make_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("writer")
    write_tensors(folder / "whole", zip(SPECS, ARRAYS.values(), strict=True))
    with TensorWriter(folder / "pieces", SPECS) as writer:
        for name in order:
            flat = ARRAYS[name].reshape(-1)
            for start in reversed(range(0, flat.size, cut)):
                writer.write(name, flat[start : start + cut], start)
    assert (folder / "pieces").read_bytes() == (folder / "whole").read_bytes()


def test_a_tensor_that_was_not_written_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TensorError, match="not written whole"), TensorWriter(tmp_path / "t", SPECS) as writer:
        writer.write("gain", ARRAYS["gain"][:4])


@pytest.mark.parametrize(
    ("name", "array", "start"),
    [
        ("gain", np.zeros(4, dtype=np.float32), 6),
        ("gain", np.zeros(1, dtype=np.float32), -1),
        ("gain", np.zeros(9, dtype=np.float64), 0),
        ("unknown", np.zeros(1, dtype=np.float32), 0),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, array: np.ndarray, start: int) -> None:  # type: ignore[type-arg]
    with pytest.raises(TensorError), TensorWriter(tmp_path / "t", SPECS) as writer:
        writer.write(name, array, start)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "t", SPECS)
    writer.write("gain", ARRAYS["gain"])
    with pytest.raises(TensorError, match="twice"), writer:
        writer.write("gain", ARRAYS["gain"])

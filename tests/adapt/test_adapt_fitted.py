"""A twin fitted to one device, and training that learns to live with that device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hyle_compiler.adapt.device import OnDevice  # noqa: E402
from hyle_compiler.adapt.fitted import Fitted, place_gains  # noqa: E402
from hyle_compiler.adapt.method import Budget  # noqa: E402
from hyle_compiler.adapt.registry import load_method  # noqa: E402
from hyle_compiler.adapt.training import Loop, objective  # noqa: E402
from hyle_substrates.mismatch import Mismatch  # noqa: E402
from hyle_substrates.twin import TwinDriver  # noqa: E402

OFF = Mismatch(0.3, 0.3, 0.3)


def written(gains: Any, noise: float, writes: int, rng: np.random.Generator) -> tuple[Any, Any, Any, int]:
    both, squared, power = np.zeros((3, *gains.shape))
    for _ in range(writes):
        target = np.clip(rng.normal(0.0, 0.4, gains.shape), -1.0, 1.0)
        said = gains * target + noise * rng.standard_normal(gains.shape)
        both, squared, power = both + said * target, squared + target**2, power + said**2
    return torch.tensor(both), torch.tensor(squared), torch.tensor(power), writes


def test_gains_are_found_as_well_as_their_prior_and_the_noise_allow(rng: np.random.Generator) -> None:
    gains = (1.0 + 0.2 * rng.standard_normal((200, 100))).clip(0.0)
    sums = written(gains, 0.05, 8, rng)
    found = place_gains(*sums).numpy()
    best = 1.0 / (1.0 / 0.2**2 + sums[1].numpy() / 0.05**2)
    # The least error that any estimate has with the true prior; here the prior is estimated, rows and columns too.
    assert np.mean((found - gains) ** 2) < 1.2 * best.mean()


def test_without_a_gain_of_its_own_a_place_is_left_alone(rng: np.random.Generator) -> None:
    found = place_gains(*written(np.ones((200, 100)), 0.1, 3, rng)).numpy()
    # Each of 300 row and column gains has a standard error of 0.1/0.4/sqrt(3·100) and less: 0.0144; together 0.0177.
    assert np.sqrt(np.mean((found - 1.0) ** 2)) < 2 * 0.0177


def test_a_device_that_answers_nothing_leaves_the_twin_as_it_is() -> None:
    zeros = torch.zeros((3, 2))
    assert torch.equal(place_gains(zeros, zeros + 1.0, zeros, 2), torch.ones((3, 2)))


def test_probes_of_a_device_tell_its_gains(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    task = it.task()
    twin = TwinDriver(it.profile, 5, exact=True, noiseless=True, mismatch=OFF)
    device = OnDevice(task, twin)
    fitted = Fitted(task, torch.Generator())
    for _ in range(2):
        fitted.fit(device.probed())
    block = task.layers[0].placed.blocks[0]
    true = twin.weights(block.tiles[0].index)[:, : block.levels.shape[1]] / np.where(block.levels, block.levels, np.nan)
    strong = np.abs(block.levels) > 60
    mine = fitted._gains[task.layers[0].placed.layer.name][0].numpy()
    # A place of 60 levels of 127 answers 10 codes, which are whole numbers: 1/sqrt(12)/10 is 3 %.
    assert np.corrcoef(mine[strong], true[strong])[0, 1] > 0.95


def test_training_on_a_device_that_differs_learns_that_device(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    task = replace(it.task(), budget=Budget(epochs=16, batch=50), driver=TwinDriver(it.profile, 5, mismatch=OFF))

    def loss(matrices: Any, biases: Any) -> float:
        loop = Loop(task, 1)
        with torch.no_grad():
            for layer in loop.view.physical:
                layer.matrix.copy_(torch.tensor(matrices[layer.name]))
                layer.bias.copy_(torch.tensor(biases[layer.name]))
            device = OnDevice(task, TwinDriver(it.profile, 5, mismatch=OFF))
            device.write(loop.view.physical)
            with loop.view.on(device):
                return float(objective(loop.view.logits(*loop.kept.inputs), loop.kept))

    names = {c.placed.layer.name: c.placed.layer for c in task.layers}
    before = loss({n: c.matrix for n, c in names.items()}, {n: c.bias for n, c in names.items()})
    adapted = load_method("pat").run(task)
    assert loss(adapted.matrices, adapted.biases) < before
    assert adapted.passes > 0


@pytest.mark.parametrize("name", ["layer-wise", "dfa", "phyll"])
def test_local_methods_learn_on_the_device_that_is_attached(given, name: str) -> None:  # type: ignore[no-untyped-def]
    class Counted(TwinDriver):
        writes = 0

        def program(self, tile: int, targets: Any) -> Any:
            type(self).writes += 1
            return super().program(tile, targets)

    it = given("digits_mlp")
    driver = Counted(it.profile, 5, mismatch=OFF)
    adapted = load_method(name).run(it.task(driver=driver, budget=Budget(epochs=1, steps=3, batch=50)))
    # Written when it is attached, before the first step, and to be judged before and after: a tile a layer.
    assert Counted.writes == 4 * len(it.parts.physical)
    assert all(np.isfinite(m).all() for m in adapted.matrices.values())

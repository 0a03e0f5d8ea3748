"""The torch view and the methods that use it: parity with the twin, gradients, learning, and every way to stop."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra [train])")
pytest.importorskip("onnx2fx", reason="onnx2fx is not installed (extra [train])")

from hyle_compiler.adapt import pace  # noqa: E402
from hyle_compiler.adapt.descent import Descent, schedule  # noqa: E402
from hyle_compiler.adapt.device import OnDevice  # noqa: E402
from hyle_compiler.adapt.feedback import activation_slope, feedback  # noqa: E402
from hyle_compiler.adapt.matter import Drawn  # noqa: E402
from hyle_compiler.adapt.method import AdaptError, Budget  # noqa: E402
from hyle_compiler.adapt.registry import load_method  # noqa: E402
from hyle_compiler.adapt.segments import DeviceLayers  # noqa: E402
from hyle_compiler.adapt.torch_view import torch_view  # noqa: E402
from hyle_compiler.adapt.training import Batch, Loop, objective  # noqa: E402
from hyle_compiler.adapting import write_back  # noqa: E402
from hyle_compiler.partition import partition  # noqa: E402
from hyle_compiler.samples import Samples  # noqa: E402
from hyle_substrates.driver import DeviceError  # noqa: E402
from hyle_substrates.profile import profile_names  # noqa: E402
from hyle_substrates.substrate import load_substrate  # noqa: E402
from hyle_substrates.twin import TwinDriver  # noqa: E402
from msgspec import structs  # noqa: E402

GRADIENT = ["in-silico", "pat", "dfa", "augmented-dfa", "forward-forward", "phyll", "layer-wise"]
SEARCH = ["none", "spsa", "finite-difference", "cma-es"]


def inputs_of(samples: Samples, count: int) -> torch.Tensor:
    return torch.tensor(next(iter(samples.arrays.values()))[:count])


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "digits_tiny_transformer"])
def test_the_view_without_matter_is_the_float_model(given, name) -> None:  # type: ignore[no-untyped-def]
    it = given(name)
    view = torch_view(it.model, it.task().layers, it.profile)
    x = inputs_of(it.samples, 16)
    session = ort.InferenceSession(str(it.path))
    want = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    got = view.graph(x).detach().numpy()
    # float32 sums in another order: 1e-6 relative a layer.
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_the_view_on_exact_matter_answers_as_the_twin_driver_does(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_cnn")
    task = replace(it.task(), compensation="none")
    view = torch_view(it.model, task.layers, it.profile)
    driver = TwinDriver(it.profile, 3, noiseless=True)
    device = DeviceLayers(task, driver)
    matter = OnDevice(task, TwinDriver(it.profile, 3, noiseless=True))
    layer = view.physical[1]
    x = torch.rand(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    want = device.hosts[layer.name].run(driver, it.profile, x.numpy())
    layer.matter = matter
    runs = torch.stack([layer(x).detach() for _ in range(64)]).mean(0).numpy()
    power = float(np.sqrt(np.mean(want**2)))
    gain = float(task.layers[1].gain.max()) * float(x.max())
    bound = 5.0 * gain * it.profile.noise_codes / np.sqrt(64) + gain
    assert np.abs(runs - want).max() < bound, power


@pytest.mark.parametrize("target", profile_names())
def test_a_layer_is_off_in_training_by_as_much_as_on_the_twin(given, target) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp", target)
    view = torch_view(it.model, it.task().layers, it.profile)
    layer = view.physical[-1]
    targets, _ = layer.relative()[0]
    substrate, rng = load_substrate(it.profile.substrate), np.random.default_rng(0)
    matter = Drawn(it.profile, "none", torch.Generator().manual_seed(0), 86400.0)
    drawn, real = [], []

    def size(found: list[Any]) -> float:
        return float(np.mean([np.square(np.asarray(one)).mean() for one in found])) ** 0.5

    for _ in range(3):
        matter.renew()
        matter._off.clear()
        drawn.append(matter._instance(layer, 0, targets) - targets)
        tile = targets.numpy().astype(np.float64)[:, slice(*layer.calibrated.placed.blocks[0].tiles[0].cols)]
        draw = lambda name, shape: rng.standard_normal(shape)  # noqa: E731
        real.append(substrate.age(it.profile, substrate.program(it.profile, tile, draw), 86400.0, draw) - tile)
    # Root mean squares of three times 16 independent weights or more: each has a standard error of 10 % or less, so
    # that the two differ by 50 % once in 2,000 at most; the seeds are fixed.
    assert size(drawn) == pytest.approx(size(real), rel=0.5, abs=1e-9)


@pytest.mark.parametrize("target", ["mzi-64", "mrr-16"])
@pytest.mark.parametrize("name", ["in-silico", "pat", "layer-wise"])
def test_training_meets_matter_that_only_numpy_can_program(given, target, name) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp", target)
    adapted = load_method(name).run(it.task(budget=Budget(epochs=1, steps=2, batch=50)))
    assert adapted.outcome == "finished"
    assert all(np.isfinite(matrix).all() for matrix in adapted.matrices.values())


def test_the_backward_of_a_layer_is_that_of_the_float_layer(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_cnn", "ideal")
    view = torch_view(it.model, it.task().layers, it.profile)
    x, y = inputs_of(it.samples, 8), torch.tensor(it.samples.labels[:8].astype(np.int64))
    found = []
    for matter in (None, Drawn(it.profile, "none", torch.Generator().manual_seed(0), 25.0)):
        view.put(matter)
        view.zero_grad()
        torch.nn.functional.cross_entropy(view.logits(x), y).backward()
        found.append(torch.cat([p.grad.flatten() for p in view.parameters() if p.requires_grad]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 1.0 - 1e-5


def test_the_float_layers_gradient_agrees_with_finite_differences(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    view = torch_view(it.model, it.task().layers, it.profile).double()
    view.graph.double()
    x, y = inputs_of(it.samples, 8).double(), torch.tensor(it.samples.labels[:8].astype(np.int64))
    loss = torch.nn.functional.cross_entropy(view.logits(x), y)
    loss.backward()
    last = view.physical[-1].matrix
    rng = np.random.default_rng(0)
    claimed, exact = [], []
    for _ in range(20):
        i, j = rng.integers(last.shape[0]), rng.integers(last.shape[1])
        both = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                last[i, j] += sign * 1e-5
                both.append(float(torch.nn.functional.cross_entropy(view.logits(x), y)))
                last[i, j] -= sign * 1e-5
        exact.append((both[0] - both[1]) / 2e-5)
        claimed.append(float(last.grad[i, j]))
    assert np.allclose(claimed, exact, atol=1e-8)


def test_the_gradient_of_an_input_range_agrees_with_finite_differences(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp", "ideal")
    # So many levels that what is left of the converter is its limits: a step of the range is 300 of its quanta.
    dac = structs.replace(it.profile.dac, levels=30_000, range="static")
    profile = structs.replace(it.profile, dac=dac)
    it.profile = profile
    view = torch_view(it.model, it.task().layers, profile)
    view.put(Drawn(profile, "none", torch.Generator().manual_seed(0), 25.0))
    layer = view.physical[1]
    limit = layer.full_scale.requires_grad_(True)
    with torch.no_grad():
        limit.mul_(0.3)
    x = inputs_of(it.samples, 64)
    weights = torch.randn(64, view.logits(x).shape[1], generator=torch.Generator().manual_seed(1))
    (view.logits(x) * weights).sum().backward()
    both = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            before = limit.clone()
            limit.add_(sign * 0.01 * before)
            both.append((view.logits(x) * weights).sum().item())
            limit.copy_(before)
    # Values within the step of the range change sides: a few per cent of those that are cut.
    assert limit.grad.item() == pytest.approx((both[0] - both[1]) / (0.02 * limit.item()), rel=0.05)


def test_an_input_range_that_was_learned_holds_in_the_compiled_layer(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    name = it.parts.physical[1].name
    adapted = load_method("none").run(it.task())
    write_back(it.model, it.parts.physical, replace(adapted, ranges={name: 1.25}))
    it.parts = partition(it.model)
    found = {layer.placed.layer.name: layer for layer in it.task().layers}
    assert (found[name].dynamic, found[name].full_scale) == (False, 1.25)


@pytest.mark.parametrize("name", [*GRADIENT, *SEARCH])
def test_every_method_learns_something_finite_and_the_model_takes_it(given, name) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    steps = {"finite-difference": 1, "cma-es": 2}.get(name, 4)
    adapted = load_method(name).run(it.task(budget=Budget(epochs=1, steps=steps, batch=50)))
    assert adapted.outcome == "finished"
    assert adapted.passes > 0
    assert all(np.isfinite(m).all() for m in adapted.matrices.values())
    write_back(it.model, it.parts.physical, adapted)


@pytest.mark.parametrize("name", ["in-silico", "spsa"])
def test_the_same_seed_learns_the_same(given, name) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    a, b = (load_method(name).run(it.task()) for _ in range(2))
    assert a.history == b.history
    assert all(np.array_equal(a.matrices[k], b.matrices[k]) for k in a.matrices)


@pytest.mark.parametrize("name", ["in-silico", "pat"])
def test_a_training_whose_time_is_too_short_ends_as_gently_as_one_that_has_all_its_steps(  # type: ignore[no-untyped-def]
    given, name, monkeypatch
) -> None:
    """Each step takes a second by the clock here, and 600 are asked for in 100."""
    it = given("digits_mlp")
    rates: list[float] = []
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: float(len(rates))))
    apply = Descent.apply

    def counted(self: Descent) -> None:
        apply(self)
        rates.append(self._adam.param_groups[0]["lr"] / self._scales[0])

    monkeypatch.setattr(Descent, "apply", counted)
    method = load_method(name)
    adapted = method.run(it.task(budget=Budget(steps=600, batch=50, seconds=100.0)))
    assert len(rates) == 100
    assert max(rates) == pytest.approx(method.rate)
    assert rates[-1] < 0.01 * max(rates)
    assert adapted.outcome == "finished"
    assert any("the time was up" in note for note in adapted.notes)
    if name == "pat":  # 40 of the 100 are the device's, which every second one goes through
        assert 20 * 43 <= adapted.passes <= 20 * 50


def test_time_that_suffices_changes_no_rate() -> None:
    at = schedule(1.0, pace.Pace(400, 1e9))
    assert [at(step) for step in range(20)] == [(step + 1) / 20 for step in range(20)]
    want = [0.5 * (1.0 + math.cos(math.pi * (step - 20) / 380)) for step in range(20, 400)]
    assert [at(step) for step in range(20, 400)] == pytest.approx(want, rel=1e-9)


def test_a_loss_that_diverges_stops_the_training_and_keeps_the_best(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    loop = Loop(it.task(), 1)
    before = [p.detach().clone() for p in loop.view.parameters()]

    def step(batch: Batch) -> float:
        with torch.no_grad():
            loop.view.physical[0].matrix.fill_(float("nan"))
        return float("nan")

    adapted = loop.run(step, Drawn(it.profile, "affine", loop.generator), pace=loop.pace())
    assert adapted.outcome == "diverged"
    assert any("diverged" in note for note in adapted.notes)
    assert np.array_equal(adapted.matrices[loop.view.physical[0].name], before[0].numpy())


def test_an_interrupt_keeps_the_best_and_a_checkpoint_goes_on_from_it(given, tmp_path) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    path = tmp_path / "best.npz"
    loop = Loop(it.task(checkpoint=path, budget=Budget(epochs=3, batch=50)), 3)
    count = 0

    def step(batch: Batch) -> float:
        nonlocal count
        count += 1
        if count > 8:
            raise KeyboardInterrupt
        with torch.no_grad():
            loop.view.physical[-1].bias += 1e-3
        return 1.0

    losses = iter([5.0, 4.0, 3.0])
    adapted = loop.run(
        step, Drawn(it.profile, "affine", loop.generator), pace=loop.pace(), evaluate=lambda: next(losses)
    )
    assert adapted.outcome == "stopped"
    assert adapted.loss == 4.0
    again = Loop(it.task(checkpoint=path), 1)
    resumed = again.run(
        lambda batch: 1.0, Drawn(it.profile, "affine", again.generator), pace=again.pace(), evaluate=lambda: 1.0
    )
    last = loop.view.physical[-1].name
    assert np.array_equal(resumed.biases[last], adapted.biases[last])


@pytest.mark.parametrize("name", ["pat", "spsa"])
def test_a_device_that_goes_away_leaves_the_best_so_far(given, name) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")

    class Leaving(TwinDriver):
        left = 400

        def apply(self, tiles: Any, codes: Any) -> Any:
            type(self).left -= 1
            if self.left < 0:
                raise DeviceError("The cable was pulled.", remedy="Plug it in.")
            return super().apply(tiles, codes)

        def program(self, tile: int, targets: Any) -> Any:
            if self.left < 390:
                raise DeviceError("The cable was pulled.", remedy="Plug it in.")
            return super().program(tile, targets)

    steps = {"pat": 8, "spsa": 200}[name]
    task = it.task(driver=Leaving(it.profile, 5), budget=Budget(epochs=4, steps=steps, batch=50))
    Leaving.left = 391 if name == "pat" else 400
    adapted = load_method(name).run(task)
    assert adapted.outcome == "stopped"
    assert all(np.isfinite(m).all() for m in adapted.matrices.values())


def test_a_device_that_hides_its_weights_is_driven_through_its_converters(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")

    class Plain:
        """A driver that is no simulation to the compiler."""

        def __init__(self, twin: TwinDriver) -> None:
            self.describe, self.program, self.apply, self.close = twin.describe, twin.program, twin.apply, twin.close

    task = it.task(driver=Plain(TwinDriver(it.profile, 5)), budget=Budget(epochs=1, steps=4, batch=50))
    adapted = load_method("pat").run(task)
    assert adapted.outcome == "finished"
    assert adapted.passes > 0


def test_methods_that_need_labels_say_so(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    bare = Samples(it.samples.arrays, None)
    with pytest.raises(AdaptError, match="labels"):
        load_method("phyll").run(it.task(samples=bare))
    adapted = load_method("in-silico").run(it.task(samples=bare))
    assert adapted.outcome == "finished"


def test_direct_feedback_on_the_last_layer_is_the_gradient(given) -> None:  # type: ignore[no-untyped-def]
    it = given("digits_mlp")
    loop = Loop(it.task(), 1)
    batch = loop.kept
    feedback(loop.view, {}, activation_slope, batch, 0)
    claimed = loop.view.physical[-1].matrix.grad.clone()
    loop.view.zero_grad()
    for layer in loop.view.physical:
        layer.local = False
    objective(loop.view.logits(*batch.inputs), batch).backward()
    assert torch.allclose(claimed, loop.view.physical[-1].matrix.grad, atol=1e-6)


def test_directions_of_spsa_align_with_the_gradient_as_theory_says() -> None:
    from hyle_compiler.adapt.spsa import direction, estimate

    rng = np.random.default_rng(0)
    size, draws = 64, 4000
    gradient = rng.standard_normal(size)
    cosines = []
    for step in range(draws):
        z = direction(0, step, size)
        found = estimate(gradient @ z * 0.01, -gradient @ z * 0.01, 0.01, z)
        cosines.append(found @ gradient / np.linalg.norm(found) / np.linalg.norm(gradient))
    # The cosine is |g·z|/(|g| sqrt(d)), whose mean is near sqrt(2/(π d)); its own standard error is 0.6/sqrt(d n).
    assert abs(np.mean(cosines) - np.sqrt(2.0 / (np.pi * size))) < 5 * 0.6 / np.sqrt(size * draws) + 0.01 / np.sqrt(
        size
    )

"""What is learnt where answers are not one class a sample: numbers, maps, sequences, several outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_compiler.adapt.goal import Goal, Part, floating_outputs, goal_of, rows
from hyle_compiler.adapt.method import AdaptError, Budget, Task
from hyle_compiler.adapt.registry import load_method
from hyle_compiler.adapting import calibrated_layers, find_goal
from hyle_compiler.partition import partition
from hyle_compiler.read import read_model
from hyle_compiler.samples import Samples
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import load_profile
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Made = Callable[..., tuple[Any, Samples, Task]]


def model_of(nodes: list[Any], weights: dict[str, Array], x: list[Any], outputs: dict[str, list[Any]]) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_heads(rng: np.random.Generator) -> tuple[Any, Array]:
    """Ten classes and three numbers from one trunk."""
    weights = {
        "w": rng.normal(size=(20, 32)) / 4,
        "c": rng.normal(size=(32, 10)) / 4,
        "n": rng.normal(size=(32, 3)) / 4,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "c"], ["classes"]),
        helper.make_node("MatMul", ["h", "n"], ["numbers"]),
    ]
    proto = model_of(nodes, weights, ["N", 20], {"classes": ["N", 10], "numbers": ["N", 3]})
    return proto, rng.normal(size=(200, 20)).astype(np.float32)


def regression(rng: np.random.Generator) -> tuple[Any, Array]:
    """One number a sample."""
    weights = {"w": rng.normal(size=(20, 32)) / 4, "n": rng.normal(size=(32, 1)) / 4}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "n"], ["y"]),
    ]
    return model_of(nodes, weights, ["N", 20], {"y": ["N", 1]}), rng.normal(size=(200, 20)).astype(np.float32)


def maps(rng: np.random.Generator) -> tuple[Any, Array]:
    """Four classes for each of 5 by 6 places."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    proto = model_of(nodes, {"w": rng.normal(size=(4, 2, 3, 3)) / 3}, ["N", 2, 5, 6], {"y": ["N", 4, 5, 6]})
    return proto, rng.normal(size=(60, 2, 5, 6)).astype(np.float32)


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> Made:
    def make(build: Callable[..., Any], labels: Array | None = None, **changes: Any) -> tuple[Any, Samples, Task]:
        proto, x = build(rng)
        onnx.save(proto, tmp_path / "m.onnx")
        model, samples = simplify(read_model(tmp_path / "m.onnx")), Samples({"x": x}, labels)
        profile = load_profile("pcm-generic")
        layers = calibrated_layers(tmp_path, model, partition(model).physical, samples, profile, 1, 0)
        goal = find_goal(tmp_path, model, samples)
        options = {"budget": Budget(epochs=4, batch=20)} | changes
        return model, samples, Task(model, layers, samples, goal, profile, "affine", 0, folder=tmp_path, **options)

    return make


def test_an_output_is_held_by_what_it_is(made: Made) -> None:
    _, _, task = made(two_heads)
    assert [(part.axis, part.numbers) for part in task.goal.parts] == [(0, True), (0, True)]
    _, _, task = made(two_heads, np.arange(200) % 10)
    assert [(part.axis, part.numbers) for part in task.goal.parts] == [(0, False), (0, True)]
    _, _, task = made(regression)
    assert [(part.axis, part.numbers) for part in task.goal.parts] == [(None, True)]
    _, _, task = made(maps, np.zeros((60, 5, 6), np.int64))
    assert [(part.shape, part.axis, part.positions) for part in task.goal.parts] == [((4, 5, 6), 0, 30)]


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_labels_that_are_one_hot_are_classes(made: Made, kind: Any) -> None:
    classes = np.arange(200) % 10
    _, _, task = made(two_heads, np.eye(10, dtype=kind)[classes])
    assert np.array_equal(task.goal.labels, classes)
    assert not task.goal.parts[0].numbers


@pytest.mark.parametrize("build", [two_heads, regression, maps])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_loss_is_what_torch_makes_of_its_parts(
    made: Made, rng: np.random.Generator, build: Any, labelled: bool
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra [train])")
    functional = torch.nn.functional
    labels = {
        two_heads: rng.integers(0, 10, 200),
        regression: rng.normal(size=200),
        maps: rng.integers(0, 4, (60, 5, 6)),
    }
    _, _, task = made(build, labels[build] if labelled else None)
    size = sum(part.size for part in task.goal.parts)
    said, wanted = (torch.tensor(rng.normal(size=(7, size)), requires_grad=True) for _ in range(2))
    given = None if task.goal.labels is None else torch.tensor(task.goal.labels[:7])

    def numbers(part: Part, a: Any, b: Any) -> Any:
        return functional.mse_loss(a, b) / part.spread

    def classes(a: Any, b: Any, shape: tuple[int, ...]) -> Any:
        soft, hoped = (torch.log_softmax(one.reshape(7, *shape) / 2.0, 1) for one in (a, b))
        return 4.0 * functional.kl_div(soft, hoped, log_target=True, reduction="sum") / (soft.numel() / shape[0])

    parts, a, b = task.goal.parts, task.goal.split(said), task.goal.split(wanted)
    if build is regression:
        losses = [numbers(parts[0], a[0], b[0])]
        hard = None if given is None else numbers(parts[0], a[0][:, 0], given)
    else:
        losses = [classes(a[0], b[0], parts[0].shape) + (0.0 if labelled else numbers(parts[0], a[0], b[0]))]
        hard = None if given is None else functional.cross_entropy(a[0].reshape(7, *parts[0].shape), given)
    if hard is not None:
        losses[0] = 0.3 * hard + 0.7 * losses[0]
    if build is two_heads:
        losses.append(classes(a[1], b[1], parts[1].shape) + numbers(parts[1], a[1], b[1]))
    want = sum(losses) / len(losses)
    # All in float64; sums of at most 840 terms differ by 840 roundings.
    got = task.goal.loss(said, wanted, given)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    bare = None if given is None else given.numpy()
    assert task.goal.loss(said.detach().numpy(), wanted.detach().numpy(), bare) == pytest.approx(want.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(one, said)[0] for one in (got, want))
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_map_is_held_place_by_place(rng: np.random.Generator) -> None:
    part = Part((4, 5, 6), 0, False, 1.0)
    answers = rng.normal(size=(3, 4, 5, 6))
    by_hand = [answers[n, :, i, j] for n in range(3) for i in range(5) for j in range(6)]
    assert np.array_equal(part.by_class(answers.reshape(3, -1)), by_hand)


def test_only_right_answers_count(rng: np.random.Generator) -> None:
    goal = Goal((Part((4, 5, 6), 0, False, 1.0),), None)
    answers = rng.normal(size=(3, 4, 5, 6))
    labels = answers.argmax(axis=1)
    labels[0, 0, 0] = (labels[0, 0, 0] + 1) % 4
    flat = answers.reshape(3, -1)
    assert goal.right(flat, flat, None) == 1.0
    assert goal.right(flat, flat, labels) == pytest.approx(89 / 90)
    numbers = Goal((Part((1,), None, True, 1.0),), None)
    wanted = rng.normal(size=(100, 1))
    off = wanted + np.where(np.arange(100)[:, None] < 30, 0.2, 0.05) * wanted.std()
    assert numbers.right(off, wanted, None) == pytest.approx(0.7)


@pytest.mark.parametrize("method", ["in-silico", "pat", "dfa", "spsa"])
@pytest.mark.parametrize("build", [regression, maps, two_heads])
def test_labels_that_are_not_one_class_a_sample_are_learnt(made: Made, build: Any, method: str) -> None:
    """Labels that the model does not know: numbers far off its own, and one class for every place and sample."""
    if load_method(method).needs.torch:
        pytest.importorskip("torch", reason="torch is not installed (extra [train])")
    labels = {regression: np.full(200, 3.0), maps: np.zeros((60, 5, 6), np.int64), two_heads: np.zeros(200, np.int64)}
    _, _, task = made(build, labels[build], budget=Budget(steps=60, epochs=100, batch=20))
    adapted = load_method(method).run(task)
    assert adapted.outcome == "finished"
    assert adapted.loss < adapted.history[0], adapted.history


def test_a_number_is_learnt_where_a_softmax_of_one_class_would_say_nothing(made: Made) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra [train])")
    from hyle_compiler.adapt.training import Batch, objective

    _, _, task = made(regression)
    import torch

    said = torch.zeros(5, 1, requires_grad=True)
    objective(said, Batch((), None, torch.ones(5, 1), task.goal)).backward()
    assert said.grad is not None
    assert float(said.grad.max()) < 0.0


@pytest.mark.parametrize("method", ["forward-forward", "phyll"])
def test_a_method_of_classes_refuses_numbers(made: Made, method: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra [train])")
    _, _, task = made(regression, np.linspace(0.0, 1.0, 200))
    with pytest.raises(AdaptError, match="one class a sample"):
        load_method(method).run(task)


@pytest.mark.parametrize(
    ("build", "labels"),
    [
        (regression, np.zeros((200, 2))),
        (regression, np.array(["a"] * 200)),
        (two_heads, np.full(200, 10)),
        (two_heads, np.full(200, -1)),
        (two_heads, np.full(200, 0.5)),
        (two_heads, np.zeros((200, 3), np.int64)),
        (maps, np.zeros((60, 5, 5), np.int64)),
        (regression, np.full(200, np.nan)),
    ],
)
def test_labels_that_do_not_fit_are_refused(made: Made, build: Any, labels: Array) -> None:
    with pytest.raises(AdaptError, match="Labels") as caught:
        made(build, labels)
    assert caught.value.remedy


def test_zero_and_one_for_a_single_score_leave_it_to_the_float_model(made: Made) -> None:
    _, _, task = made(regression, np.arange(200) % 2)
    assert task.goal.labels is None
    assert task.goal.parts[0].numbers


def test_probabilities_are_known_behind_a_reshape(tmp_path: Path, rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["p"]),
        helper.make_node("Reshape", ["p", "s"], ["y"]),
    ]
    proto = model_of(nodes, {"w": rng.normal(size=(20, 10))}, ["N", 20], {"y": ["N", 10, 1]})
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, 10, 1]), "s"))
    onnx.save(proto, tmp_path / "m.onnx")
    outputs = floating_outputs(read_model(tmp_path / "m.onnx"))
    assert [output.softmax for output in outputs] == [True]
    answers = [np.full((8, 10, 1), 0.1, np.float32)]
    assert goal_of(outputs, answers, 8, np.arange(8)).parts[0].axis == 0
    assert np.allclose(rows(outputs, answers, 8), np.log(0.1))


def test_a_model_that_only_chooses_cannot_be_taught(tmp_path: Path, rng: np.random.Generator) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("ArgMax", ["a"], ["y"], axis=1)]
    proto = model_of(nodes, {"w": rng.normal(size=(20, 10))}, ["N", 20], {"y": ["N", 1]})
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(AdaptError, match="floating type"):
        floating_outputs(read_model(tmp_path / "m.onnx"))

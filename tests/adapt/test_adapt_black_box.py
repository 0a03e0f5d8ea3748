"""Training through a black box with a model of it that is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hyle_substrates.driver import BlackBoxInfo

torch = pytest.importorskip("torch")

from hyle_compiler.adapt.black_box import BlackBoxLayer  # noqa: E402

CIRCUIT = """
.subckt hyle bias a b y
RP bias y 4.7k
RA a y 1k
RB b y 1.8k
RG y 0 2.2k
D1 y 0 bent
D2 k y bent
VK k 0 -0.2
.model bent d(is=1e-7 n=1.8)
.ends hyle
"""


class Cubed:
    """y = x³ + p, exactly."""

    def describe(self) -> BlackBoxInfo:
        return BlackBoxInfo("cubed", 2, 2, 2)

    def respond(self, parameters: Any, inputs: Any) -> Any:
        return inputs**3 + parameters

    def close(self) -> None: ...


def test_forward_is_the_device_and_backward_the_model_at_what_drove_the_device() -> None:
    layer = BlackBoxLayer(lambda p, x: 2.0 * x**2 + 3.0 * p, -1.0, 1.0, Cubed())
    x = torch.tensor([[0.5, -0.5], [0.25, 2.0]], requires_grad=True)
    p = torch.tensor([0.1, 0.2], requires_grad=True)
    y = layer(x, p)
    assert torch.allclose(y, torch.tensor([[0.225, 0.075], [0.115625, 1.2]]))
    y.sum().backward()
    # 4x where driven; beyond the range nothing moves; one p drives both samples.
    assert torch.allclose(x.grad, torch.tensor([[2.0, -2.0], [1.0, 0.0]]))
    assert torch.allclose(p.grad, torch.tensor([6.0, 6.0]))
    assert layer.passes == 2


def test_without_a_device_the_model_answers() -> None:
    layer = BlackBoxLayer(lambda p, x: 2.0 * x, -1.0, 1.0)
    assert torch.equal(layer(torch.ones((1, 2))), torch.full((1, 2), 2.0))
    assert layer.passes == 0


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
def test_physics_aware_training_on_a_circuit_closes_most_of_the_gap_of_a_wrong_model(tmp_path: Path) -> None:
    """A curve is fitted by a matrix before and after one diode node; the model has no diodes and wrong resistors."""
    from hyle_agent.drivers.spice import connect

    path = tmp_path / "node.cir"
    path.write_text(CIRCUIT)
    box = connect(
        {"netlist": str(path), "parameters": "1", "inputs": "2", "outputs": "1", "low_v": "-2", "high_v": "2"}
    )
    x = torch.linspace(-1.0, 1.0, 24)[:, None]
    wanted = 0.3 * torch.tanh(2.0 * x)

    def model(p: Any, u: Any) -> Any:
        return 0.35 * torch.tanh((0.1 * p + 0.45 * u[:, :1] + 0.25 * u[:, 1:]) / 0.35)

    torch.manual_seed(0)
    layer = BlackBoxLayer(model, -2.0, 2.0)
    before, after = torch.nn.Linear(1, 2), torch.nn.Linear(1, 1)
    bias = torch.nn.Parameter(torch.zeros(1))
    parameters = [*before.parameters(), *after.parameters(), bias]

    def loss() -> Any:
        return (after(layer(before(x), bias)) - wanted).square().mean()

    def train(steps: int, rate: float) -> None:
        adam = torch.optim.Adam(parameters, lr=rate)
        for _ in range(steps):
            adam.zero_grad()
            loss().backward()
            adam.step()

    train(400, 0.02)
    ideal = float(loss().detach())
    layer.box = box
    deployed = float(loss().detach())
    train(40, 0.02)
    aware = float(loss().detach())
    box.close()
    assert deployed > ideal
    assert (deployed - aware) / (deployed - ideal) >= 0.8

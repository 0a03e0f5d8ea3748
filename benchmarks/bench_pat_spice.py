"""Physics-aware training on a circuit that nobody here solved: how much of the gap of in-silico training it closes.

Run: python benchmarks/bench_pat_spice.py [--seeds 5] [--steps 100] [--json FILE]
Digits (8×8) pass a trained matrix, a circuit of diodes and resistors in ngspice, a second matrix, the circuit once
more, and a third matrix; only the matrices learn. The model of the circuit is wrong on purpose: it knows no tolerance
of the resistors (40 %), and has a hyperbolic tangent where the diodes are (its error is printed). The same steps, on
the same batches, from the same weights, after training on the model: `in silico` goes on with the model, `PAT` drives
the circuit. Gap: accuracy that the in-silico network has on its model, less what it has on the circuit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_methods import interval
from diode_circuit import KNEE_V, Circuit
from hyle_agent.drivers.spice import connect

from hyle.console import Console

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "digits_cnn"
RANGE_V = 3.0


def digits(split: str) -> tuple[Any, Any]:
    import torch

    with np.load(DATA / f"{split}.npz") as file:
        x = torch.tensor(file["input"].reshape(len(file["labels"]), -1), dtype=torch.float32)
        return x / x.abs().max(), torch.tensor(file["labels"].astype(np.int64))


def network(circuit: Circuit, seed: int) -> Any:
    """The trained matrices around two passes through the circuit's model."""
    import torch
    from hyle_compiler.adapt.black_box import BlackBoxLayer

    linear = torch.tensor(circuit.linear(), dtype=torch.float32)

    def model(parameters: Any, inputs: Any) -> Any:
        return KNEE_V * torch.tanh(inputs @ linear / KNEE_V)

    torch.manual_seed(seed)
    n = circuit.inputs
    passes = [BlackBoxLayer(model, -RANGE_V, RANGE_V) for _ in range(2)]
    layers = [torch.nn.Linear(64, n), passes[0], torch.nn.Linear(n, n), passes[1], torch.nn.Linear(n, 10)]
    net = torch.nn.Sequential(*layers)
    with torch.no_grad():
        net[0].weight.mul_(2.0)
        net[2].weight.mul_(4.0)
        net[4].weight.mul_(4.0)
    return net


def attach(net: Any, box: Any) -> None:
    """Let both passes go through a device, or through the model for None."""
    net[1].box = net[3].box = box


def train(net: Any, steps: int, rate: float, seed: int, batch: int = 40) -> None:
    """Adam with a cosine, on batches that the seed names."""
    import torch

    x, labels = digits("calib")
    rng = np.random.default_rng(seed)
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        which = torch.tensor(rng.choice(len(x), batch, replace=False))
        loss = torch.nn.functional.cross_entropy(net(x[which]), labels[which])
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()


def accuracy(net: Any, box: Any) -> float:
    """Top-1 on eval.npz, on a device or on the model."""
    import torch

    x, labels = digits("eval")
    attach(net, box)
    with torch.no_grad():
        return float((net(x).argmax(1) == labels).float().mean())


def one(seed: int, steps: int, folder: Path) -> dict[str, float]:
    """One circuit, one start."""
    began = time.monotonic()
    circuit = Circuit(seed=seed, built=seed + 1)
    n = circuit.inputs
    options = {"inputs": str(n), "outputs": str(n), "low_v": str(-RANGE_V), "high_v": str(RANGE_V)}
    box = connect({"netlist": str(circuit.netlist(folder / f"{seed}.cir")), **options})
    net = network(circuit, seed)
    drive = np.random.default_rng(seed).uniform(-RANGE_V, RANGE_V, (40, n))
    said = box.respond(np.zeros((40, 0)), drive)
    model = KNEE_V * np.tanh(drive @ circuit.linear() / KNEE_V)
    train(net, 800, 1e-2, seed)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    train(net, steps, 5e-3, seed + 100)
    ideal, deployed = accuracy(net, None), accuracy(net, box)
    net.load_state_dict(start)
    attach(net, box)
    before = net[1].passes + net[3].passes
    train(net, steps, 5e-3, seed + 100)
    passes = net[1].passes + net[3].passes - before
    aware = accuracy(net, box)
    box.close()
    return {
        "seed": seed,
        "model error": float(np.linalg.norm(model - said) / np.linalg.norm(said)),
        "ideal": ideal,
        "in silico": deployed,
        "pat": aware,
        "closed": (aware - deployed) / (ideal - deployed),
        "passes": passes,
        "seconds": time.monotonic() - began,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            rows.append(one(seed, args.steps, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    closed = [row["closed"] for row in rows]
    table = []
    for r in rows:
        scores = [f"{100 * r[name]:.1f}" for name in ("ideal", "in silico", "pat")]
        ends = [f"{r['closed']:.0%}", f"{r['passes']:.0f}", f"{r['seconds']:.0f}"]
        table.append([r["seed"], f"{r['model error']:.0%}", *scores, *ends])
    heads = ["seed", "model's error", "on its model", "in silico", "PAT", "gap closed", "passes", "s"]
    title = f"Digits through a diode circuit: {np.mean(closed):.0%} ± {interval(closed):.0%} of the gap closed"
    Console().table(title, heads, table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Equilibrium propagation on a settling resistor network: digits of MNIST, and the gradient as the nudge goes to 0.

Run: python benchmarks/bench_equilibrium.py [--model DIR] [--epochs 40] [--hidden 256] [--shift 1] [--seconds 600]
DIR (or HYLE_MODELS/mnist_lenet5) holds model.onnx, train.npz and eval.npz; without it only the gradient is measured.
Every resistor divides its step by a running mean square of its own gradient: it needs nothing but its own voltages.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_accuracy import prepared
from hyle_compiler.adapt.resistor_network import ResistorNetwork, cost

from hyle.console import Console

Array = np.ndarray[Any, Any]
RATES = (3e-4, 1e-3)
BETA = 0.5
BATCH = 32


def gradient_table() -> None:
    rng = np.random.default_rng(0)
    net = ResistorNetwork([5, 6, 3], gain=4.0, g_min=1e-3, tolerance=1e-12)
    for g in net.conductances:
        np.maximum(g, 0.01, out=g)
    x, t = rng.uniform(-1, 1, (4, 5)), np.eye(3)[[0, 1, 2, 0]]
    exact = []
    for g in net.conductances:
        for index in np.ndindex(g.shape):
            kept, both = g[index], []
            for step in (1e-6, -1e-6):
                g[index] = kept + step
                both.append(float(cost(net.settle(x).outputs, t).mean()))
            g[index] = kept
            exact.append((both[0] - both[1]) / 2e-6)
    want, rows = np.array(exact), []
    for beta in (1.0, 0.1, 0.01, 0.001):
        got = np.concatenate([d.ravel() for d in net.equilibrium_gradient(x, t, beta)[0]])
        cosine = got @ want / np.linalg.norm(got) / np.linalg.norm(want)
        rows.append([beta, f"{cosine:.6f}", f"{np.linalg.norm(got - want) / np.linalg.norm(want):.1e}"])
    Console().table("gradient against finite differences", ["nudge", "cosine", "relative error"], rows)


def load(folder: Path, split: str, scratch: Path) -> tuple[Array, Array]:
    with np.load(prepared(folder, split, scratch)) as file:
        name = next(key for key in file.files if key != "labels")
        x, labels = file[name].reshape(len(file[name]), -1).astype(np.float64), file["labels"].reshape(-1)
    return (x - x.min()) / (x.max() - x.min()), labels


def moved(batch: Array, reach: int, rng: np.random.Generator) -> Array:
    """Images shifted by up to `reach` pixels both ways."""
    size = int(np.sqrt(batch.shape[1]))
    wide = np.pad(batch.reshape(-1, size, size), ((0, 0), (reach, reach), (reach, reach)))
    dy, dx = rng.integers(0, 2 * reach + 1, (2, len(batch)))
    rows, cols = dy[:, None, None] + np.arange(size)[:, None], dx[:, None, None] + np.arange(size)
    return wide[np.arange(len(batch))[:, None, None], rows, cols].reshape(len(batch), -1)


def train(args: argparse.Namespace) -> list[list[object]]:
    with tempfile.TemporaryDirectory() as scratch:
        x, y = load(args.model, "train", Path(scratch))
        held, wanted = load(args.model, "eval", Path(scratch))
    sizes = [x.shape[1], args.hidden, 10]
    net = ResistorNetwork(sizes, seed=args.seed, gain=100.0, g_min=1e-6, tolerance=1e-4, dtype=np.float32)
    rng, targets, began = np.random.default_rng(args.seed), np.eye(10), time.monotonic()
    power: list[Array] = []
    rows: list[list[object]] = []
    for epoch in range(args.epochs):
        order = rng.permutation(len(x))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            which = order[first : first + BATCH]
            inputs = moved(x[which], args.shift, rng)
            gradients, _ = net.equilibrium_gradient(inputs, targets[y[which]], BETA)
            fresh = [g * g for g in gradients]
            power = [0.99 * p + 0.01 * f for p, f in zip(power, fresh, strict=True)] if power else fresh
            steps = [g / (np.sqrt(p) + 1e-8) for g, p in zip(gradients, power, strict=True)]
            share = (epoch + first / len(order)) / args.epochs
            net.descend(steps, [rate * 0.5 * (1.0 + np.cos(np.pi * share)) for rate in RATES])
        answers = np.concatenate([net.settle(part).outputs.argmax(1) for part in np.array_split(held, 4)])
        rows.append([epoch + 1, f"{100 * np.mean(answers == wanted):.1f}", f"{time.monotonic() - began:.0f}"])
        print(*rows[-1], sep=" | ", flush=True)
        if time.monotonic() - began > args.seconds:
            break
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(os.environ.get("HYLE_MODELS", "")) / "mnist_lenet5")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--shift", type=int, default=1, help="pixels by which training images are moved")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    gradient_table()
    if not (args.model / "train.npz").is_file():
        print("training skipped: HYLE_MODELS names no folder with mnist_lenet5/train.npz", file=sys.stderr)
        return 0
    Console().table("MNIST, equilibrium propagation", ["epoch", "top-1 %", "seconds"], train(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())

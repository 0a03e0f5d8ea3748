"""Hamiltonian echo: time reversal with a small error field moves the parameters along the gradient.

It learns a network of its own kind (`hyle_compiler.adapt.hamiltonian`),
not a compiled ONNX model: it is a lattice of lossless oscillators.

Source: López-Pastor & Marquardt 2023, Phys. Rev. X 13, 031020.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, AdaptError, Needs, Task

__all__ = ["METHOD", "HamiltonianEcho"]

NEEDS = Needs(frozenset({"reversal"}), "needed", False, "3: one forward, two echoes")


@dataclass(frozen=True, slots=True)
class HamiltonianEcho:
    """Hamiltonian echo; for substrates that can do it."""

    name: str = "hamiltonian-echo"
    summary: str = "Hamiltonian echo on lossless waves or oscillators"
    source: str = "López-Pastor & Marquardt 2023, Phys. Rev. X 13, 031020"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Refuse: a matrix product is not such a network; contract: `Method.run`."""
        raise AdaptError(
            f"hamiltonian-echo trains networks of its own physics; {task.profile.name} multiplies matrices.",
            remedy="Use OscillatorLattice.echo_gradient of hyle_compiler.adapt.hamiltonian, "
            "or a method of `hyle methods --target T`.",
        )


METHOD = HamiltonianEcho()

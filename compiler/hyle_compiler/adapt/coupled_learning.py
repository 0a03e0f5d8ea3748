"""Coupled learning: free and clamped voltages, compared at each resistor.

It learns a network of its own kind (`hyle_compiler.adapt.resistor_network`),
not a compiled ONNX model: an equilibrium of resistors is no matrix product.

Source: Stern et al. 2021, Phys. Rev. X 11, 021045.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, AdaptError, Needs, Task

__all__ = ["METHOD", "CoupledLearning"]

NEEDS = Needs(frozenset({"nudging"}), "needed", False, "2 relaxations")


@dataclass(frozen=True, slots=True)
class CoupledLearning:
    """Coupled learning; for substrates that can do it."""

    name: str = "coupled-learning"
    summary: str = "coupled learning on a network that settles"
    source: str = "Stern et al. 2021, Phys. Rev. X 11, 021045"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Refuse: a matrix product is not such a network; contract: `Method.run`."""
        raise AdaptError(
            f"coupled-learning trains networks of its own physics; {task.profile.name} multiplies matrices.",
            remedy="Use ResistorNetwork.coupled_gradient of hyle_compiler.adapt.resistor_network, "
            "or a method of `hyle methods --target T`.",
        )


METHOD = CoupledLearning()

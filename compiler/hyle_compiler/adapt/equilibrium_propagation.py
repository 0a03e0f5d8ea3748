"""Equilibrium propagation: the difference of two nudged equilibria is the gradient, local to each resistor.

It learns a network of its own kind (`hyle_compiler.adapt.resistor_network`),
not a compiled ONNX model: an equilibrium of resistors is no matrix product.

Source: Scellier & Bengio 2017, Front. Comput. Neurosci. 11, 24; Kendall et al. 2020, arXiv 2006.01981.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, AdaptError, Needs, Task

__all__ = ["METHOD", "EquilibriumPropagation"]

NEEDS = Needs(frozenset({"nudging"}), "needed", False, "3 relaxations")


@dataclass(frozen=True, slots=True)
class EquilibriumPropagation:
    """Equilibrium propagation; for substrates that can do it."""

    name: str = "equilibrium-propagation"
    summary: str = "equilibrium propagation on a network that settles"
    source: str = "Scellier & Bengio 2017, Front. Comput. Neurosci. 11, 24; Kendall et al. 2020, arXiv 2006.01981"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Refuse: a matrix product is not such a network; contract: `Method.run`."""
        raise AdaptError(
            f"equilibrium-propagation trains networks of its own physics; {task.profile.name} multiplies matrices.",
            remedy="Use ResistorNetwork.equilibrium_gradient of hyle_compiler.adapt.resistor_network, "
            "or a method of `hyle methods --target T`.",
        )


METHOD = EquilibriumPropagation()

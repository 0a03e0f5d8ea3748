"""Photonic in-situ adjoint: gradients of phases from three powers at each phase shifter.

It learns a network of its own kind (`hyle_compiler.adapt.photonic`),
not a compiled ONNX model: its parameters are phases.

Source: Hughes et al. 2018, Optica 5, 864; Pai et al. 2023, Science 380, 398.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, AdaptError, Needs, Task

__all__ = ["METHOD", "PhotonicAdjoint"]

NEEDS = Needs(frozenset({"bidirectional"}), "needed", False, "3")


@dataclass(frozen=True, slots=True)
class PhotonicAdjoint:
    """The in-situ adjoint; for substrates that can do it."""

    name: str = "photonic-adjoint"
    summary: str = "in-situ adjoint on a mesh of interferometers"
    source: str = "Hughes et al. 2018, Optica 5, 864; Pai et al. 2023, Science 380, 398"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Refuse: a matrix product is not such a network; contract: `Method.run`."""
        raise AdaptError(
            f"photonic-adjoint trains networks of its own physics; {task.profile.name} multiplies matrices.",
            remedy="Use PhotonicMesh.adjoint_gradient of hyle_compiler.adapt.photonic, "
            "or a method of `hyle methods --target T`.",
        )


METHOD = PhotonicAdjoint()

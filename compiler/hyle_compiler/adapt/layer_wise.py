"""Layer-wise reconstruction: every layer learns to answer, to what the matter before it gives, what the float one does.

Needs no labels and the memory of one layer. Source: block-wise reconstruction of quantised networks, Li et al. 2021
(BRECQ), arXiv 2102.05426; progressive fine-tuning on the chip, Wan et al. 2022, Nature 608, 504.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "LayerWise"]

NEEDS = Needs(frozenset({"layer reads", "writes"}), "ignored", True, "1")


@dataclass(frozen=True, slots=True)
class LayerWise:
    """Reconstruction of the float model's activations, layer by layer.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
    """

    epochs: int = 8
    rate: float = 3e-3
    name: str = "layer-wise"
    summary: str = "layer-wise reconstruction of the float model's activations"
    source: str = "Li et al. 2021, arXiv 2102.05426; Wan et al. 2022, Nature 608, 504"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        import torch

        from hyle_compiler.adapt.site import Site
        from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

        loop = Loop(task, self.epochs)
        site = Site(loop)
        pace = loop.pace()
        descent = Descent(loop.view, self.rate, pace, None)
        for layer, teacher in zip(loop.view.physical, loop.teacher.physical, strict=True):
            layer.local = layer.record = teacher.record = True

        def step(batch: Batch) -> float:
            logits = loop.view.logits(*batch.inputs)
            for layer, teacher in zip(loop.view.physical, loop.teacher.physical, strict=True):
                if layer.said is None or teacher.said is None:
                    continue
                wanted = teacher.said.detach()
                loss = (layer.said - wanted).square().mean() / wanted.var().clamp_min(1e-12)
                loss.backward(inputs=[layer.matrix, layer.bias], retain_graph=False)
            descent.apply()
            with torch.no_grad():
                return float(objective(logits, batch))

        return loop.run(step, site, pace=pace, evaluate=site.held_out)


METHOD = LayerWise()

"""Images varied without changing their label."""

from __future__ import annotations

from typing import TypeAlias

import torch

from hyle_compiler.adapt.method import Augment

__all__ = ["augmented"]

Tensor: TypeAlias = torch.Tensor


def augmented(x: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Shift images by up to an eighth (and mirror them); channels may come first or last."""
    if augment == "none" or x.ndim != 4:
        return x
    last = x.shape[-1] < x.shape[1]
    image = x.movedim(-1, 1) if last else x
    reach = max(1, image.shape[-1] // 8)
    if augment == "shift+flip":
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
    wide = torch.nn.functional.pad(image, (reach,) * 4)
    size_y, size_x = image.shape[2:]
    dy, dx = torch.randint(0, 2 * reach + 1, (2, len(x)), generator=generator)
    rows = (dy[:, None] + torch.arange(size_y))[:, None, :, None]
    cols = (dx[:, None] + torch.arange(size_x))[:, None, None, :]
    which = torch.arange(len(x))[:, None, None, None]
    moved = wide[which, torch.arange(image.shape[1])[None, :, None, None], rows, cols]
    return moved.movedim(1, -1) if last else moved

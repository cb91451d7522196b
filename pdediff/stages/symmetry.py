"""Symmetries of a PDE as data: more training fields and a better-determined calibration for nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from pdediff.types import Purpose, derive, generator


def transformed(x: Tensor, element: int) -> Tensor:
    """Element 0 to 7 of the symmetry group of the square on rows (n, channel, y, x), fields moved as scalars."""
    turned = torch.rot90(x, element % 4, (-2, -1))
    return turned.flip(-1) if element >= 4 else turned


def augment(batch: Tensor, symmetries: str, seed: int, step: int) -> Tensor:
    """A batch with one random symmetry for each of eight blocks of rows; a function of (seed, step)."""
    if symmetries == "none":
        return batch
    source = generator(derive(seed, Purpose.BATCH, step, 1))
    elements = torch.randint(0, 8, (8,), generator=source).tolist()
    blocks = batch.chunk(8)
    return torch.cat([transformed(b, e) for b, e in zip(blocks, elements[: len(blocks)], strict=True)])


def orbit(fields: Tensor, symmetries: str, limit: int) -> Tensor:
    """At most `limit` rows: the fields, then their images under each further symmetry in turn."""
    if symmetries == "none":
        return fields[:limit]
    images = [fields]
    for element in range(1, 8):
        if sum(len(i) for i in images) >= limit:
            break
        images.append(transformed(fields, element))
    return torch.cat(images)[:limit].contiguous()

"""Every network that has a config, small versions of them, random weights and random batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pdediff import models

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "network").glob("*.yaml"))
SMALLER: dict[str, dict[str, Any]] = {
    "UNet": {"widths": (8, 16)},
    "FNO": {"modes": 5, "width": 8, "layers": 2},
    "TFNO": {"modes": 6, "width": 8, "layers": 2, "rank": 0.5},
    "UNO": {"modes": 8, "widths": (8, 16)},
    "DilatedResNet": {"width": 8, "blocks": 2, "dilations": (1, 2, 4)},
    "ScOT": {"width": 16, "window": 2},
    "DyMixOp": {"modes": 6, "width": 8, "layers": 3},
}
"""What makes a small network of each kind."""


def build(path: Path) -> Any:
    """The object of a config."""
    node = yaml.safe_load(path.read_text())
    kind = node.pop("kind")
    return getattr(models, kind)(**{k: tuple(v) if isinstance(v, list) else v for k, v in node.items()})


def small(path: Path) -> Any:
    """A small network of the same kind and options."""
    config = build(path)
    return replace(config, features=16, **SMALLER[type(config).__name__])


def periodic(config: Any) -> Any:
    """The same on a torus: nothing tells the network where it is."""
    return replace(config, padding="circular", positions=False)


def float32_only(config: Any) -> bool:
    """Whether the layers are those of neuraloperator, which fixes complex64."""
    return isinstance(config, models.FNO | models.TFNO | models.UNO)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """What starts as a constant made random too: an output layer of zeros would hide everything behind it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if (p == p.flatten()[0]).all():
                p.add_(torch.randn(p.shape, generator=draw, dtype=p.dtype) * (0.5 / max(1, p[:1].numel())) ** 0.5)
    return network


def batch(shape: tuple[int, ...], n: int = 3, seed: int = 1, labels: int | None = None) -> tuple[Tensor, Tensor]:
    """White fields `(n, *shape)` and labels `(n,)` or `(n, labels)`."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((n, *shape), generator=draw), torch.randn(
        (n,) if labels is None else (n, labels), generator=draw
    )


def smooth(n: int, channels: int, size: int, spatial: int, modes: int = 2, seed: int = 0) -> Tensor:
    """Fields with modes up to `modes` in each dimension, sampled on a grid of `size` cells: (n, channels, *space)."""
    draw = torch.Generator().manual_seed(seed)
    at = torch.arange(size, dtype=torch.float64) * (2 * torch.pi / size)
    waves = torch.stack([f(k * at) for k in range(1, modes + 1) for f in (torch.cos, torch.sin)] + [torch.ones(size)])
    fields = torch.randn((n, channels, *(2 * modes + 1,) * spatial), generator=draw, dtype=torch.float64)
    for _ in range(spatial):
        fields = torch.tensordot(fields, waves, dims=([2], [0]))  # the first coefficient axis becomes the last of space
    return (fields / (2 * modes + 1) ** (spatial / 2)).float()

"""An equation for tests of data sets: levels of known cost, samples that fail, drift or repeat on demand.

As a script, `pdediff` with this equation among the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff import pdes
from pdediff.errors import NumericalError
from pdediff.pdes import Problem, Variable
from pdediff.pdes.base import Clock
from pdediff.types import normal, uniform

DEVICES: list[str] = []
"""Where problems were drawn, in order."""


PAUSE: list[Callable[[float], None]] = [time.sleep]
"""How the solver spends its time."""


@dataclass(frozen=True)
class Pace:
    """Time that the solver takes for a row, in seconds."""

    row: float = 0.0


@dataclass(frozen=True)
class MadeUp:
    """u_t = -rate u by the Euler scheme, from white noise of unit variance around `height`.

    One uniform number of each seed decides its fate: below `broken` it is not finite, above 1 - `drifting` its mean is
    carried away, below `twins` it starts as all others of them do, below `refused` the solver gives up its batch.
    """

    name: ClassVar[str] = "made_up"
    formula: ClassVar[str] = "u_t = -rate u"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"rate": 0.5},
        "medium": {"rate": 1.0, "pace": {"row": 0.004}},
        "high": {"rate": 4.0, "pace": {"row": 0.016}, "clock": {"step": 0.025}},
        "longer": {"clock": {"frames": 4}},
        "wrong": {"rate": "fast"},
    }
    conserved: ClassVar[Mapping[str, float]] = {"momentum": 0.1}

    rate: float = 1.0
    broken: float = 0.0
    drifting: float = 0.0
    twins: float = 0.0
    refused: float = 0.0
    pace: Pace = Pace()
    clock: Clock = Clock(frames=3, interval=0.5, step=0.1)

    def variables(self) -> tuple[Variable, ...]:
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input"),
            Variable("fate", (), "1", "what becomes of it", "input"),
            Variable("u", ("time", "x"), "1", "u", "output", -1e3, 1e3),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        return {"time": self.clock.times(), "x": np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        DEVICES.append(str(device))
        fate = uniform(seeds, (1,))[:, 0]
        start = normal(seeds, (grid,), dtype=torch.float64)
        start = torch.where((fate < self.twins)[:, None], torch.linspace(0, 1, grid, dtype=torch.float64), start)
        return Problem({"initial": start}, {"fate": fate}).to(device)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        start, fate = problem.fields["initial"], problem.scalars["fate"]
        PAUSE[0](self.pace.row * len(start))
        if bool((fate < self.refused).any()):
            raise NumericalError("the matrix is singular")
        h, frames = self.clock.interval / self.clock.steps, [start]
        for _ in range(self.clock.frames - 1):
            frames.append(frames[-1] * (1.0 - self.rate * h) ** self.clock.steps)
        u = torch.stack(frames, 1)
        u[:, -1] += (fate > 1.0 - self.drifting)[:, None].double()
        return {"initial": start, "fate": fate, "u": torch.where((fate < self.broken)[:, None, None], torch.nan, u)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["u"][:, 1:]

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What would be constant if nothing drifted: the ratio of each mean to what decay leaves of the first."""
        h = self.clock.interval / self.clock.steps
        left = ((1.0 - self.rate * h) ** self.clock.steps) ** torch.arange(self.clock.frames, dtype=torch.float64)
        return {"momentum": fields["u"].mean(-1) - fields["u"][:, :1].mean(-1) * left}

    def inner_description(self, grid: int) -> dict[str, object]:
        return {"method": "Euler", "step": self.clock.interval / self.clock.steps}


def install() -> None:
    """`kind: MadeUp` in configs, from here on."""
    pdes.MadeUp = MadeUp  # type: ignore[attr-defined]
    pdes.__all__ = sorted([*pdes.__all__, "MadeUp"])


PROGRAM = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import made_up; made_up.main()"


def main() -> None:
    """The command line."""
    from pdediff import cli

    install()
    cli.main()


if __name__ == "__main__":
    sys.exit(main())

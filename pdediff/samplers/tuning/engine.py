"""The engine of all tuners: Levenberg-Marquardt on the training noises, judged on others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.samplers.pilot import Objective
from pdediff.samplers.plan import Plan, Sampler
from pdediff.samplers.tuning.pilots import Pilots, size_of

Told = Mapping[str, Any]
"""A sampler as in a config: its class name `kind` and its fields."""


@dataclass(frozen=True)
class Tuned:
    """A tuned plan as plain data, and what it is worth.

    `sampler` and `plan.levels` give the plan again unless its weights were fitted. `train` and `held_out` are the
    errors (before, after) on the noises it was tuned on and on others; `evaluations` is what it cost, in calls of the
    denoiser on a batch of pilots.
    """

    plan: Plan
    sampler: Told
    objective: Objective
    train: tuple[float, float]
    held_out: tuple[float, float]
    evaluations: int

    @property
    def gain(self) -> float:
        """Error before over error after, on the held-out noises."""
        return self.held_out[0] / self.held_out[1] if self.held_out[1] > 0.0 else math.inf

    def since(self, first: Tuned) -> Tuned:
        """This result counted from where `first`, an earlier stage, began."""
        train, held_out = (first.train[0], self.train[1]), (first.held_out[0], self.held_out[1])
        spent = first.evaluations + self.evaluations
        return Tuned(self.plan, self.sampler, self.objective, train, held_out, spent)

    def to_json(self) -> str:
        """Canonical JSON text; float64 numbers survive the round trip to the last bit."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({**told, "plan": json.loads(self.plan.to_json())}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Tuned:
        """The result that `to_json` wrote; `ConfigError` for any other text."""
        try:
            data = json.loads(text)
            data["plan"] = Plan.from_json(json.dumps(data["plan"]))
            data["train"], data["held_out"] = tuple(data["train"]), tuple(data["held_out"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the JSON of a tuned plan: {error}") from error


def told(sampler: Sampler) -> Told:
    """The sampler as plain data."""
    if not is_dataclass(sampler) or isinstance(sampler, type):
        raise ConfigError(f"a sampler to tune is a frozen dataclass, got {type(sampler).__name__}")
    # Through JSON, so that it equals what is read back.
    return json.loads(json.dumps({"kind": type(sampler).__name__, **asdict(sampler)}))


class Family(Protocol):
    """Plans with `size` free numbers; all zero is where tuning starts, and 1 is a large change of each."""

    @property
    def size(self) -> int: ...

    def plan(self, theta: np.ndarray) -> Plan:
        """The plan of these numbers; `ConfigError` where there is none."""
        ...


class Descent:
    """Levenberg-Marquardt on the residuals of the training noises, one step at a time.

    A step solves (J^T J + mu diag(J^T J) + N ridge e^2) d = -J^T r - N ridge e^2 theta, J by forward differences,
    e the error at the start: `ridge` holds the numbers near the start (1 makes a change of all by 1 cost as much as
    the first error). J is kept and corrected by what each step shows (Broyden 1965, eq. 4.5), and measured again when
    that is no longer good enough. A step is taken only if it lowers that sum and the error itself, so that the error
    never rises.

    `best` holds the least error on the held-out noises of the plans passed, the start among them, with the error on
    the training noises, the plan and its numbers: tuning stops where it stops to generalise. Memory: `size` + 1 copies
    of the training noises.
    """

    def __init__(self, pilots: Pilots, family: Family, *, ridge: float = 0.0) -> None:
        self.pilots, self.family = pilots, family
        self.theta = np.zeros(family.size)
        self.plan = family.plan(self.theta)
        residual = pilots.residual(self.plan)
        if residual is None:
            raise ConfigError(
                "the plan to tune diverges on the pilot noises", hint="start from more steps or a lower order"
            )
        self.residual, self.train = residual, size_of(residual)
        self.start = (self.train, pilots.error(self.plan, "held-out"))
        self.best = (self.start[1], self.train, self.plan, self.theta)
        self.damping, self.ridge = 1e-3, ridge * self.train**2
        self.jacobian: Tensor | None = None

    @property
    def cost(self) -> int:
        """Evaluations of the next step at most, rejected trials aside."""
        return (2 if self.jacobian is not None else self.family.size + 2) * self.plan.nfe

    def advance(self) -> bool:
        """One step; False if even with J just measured it lowers the error by less than 1 %."""
        measured = self.jacobian is None
        if self.jacobian is None:
            self.jacobian = torch.stack([self._column(i) for i in range(self.family.size)])
        before = self.train
        self._step(self.jacobian, trials=6 if measured else 1)
        if self.train > _WORTHWHILE * before:
            self.jacobian = None
        return not measured or self.train < 0.99 * before

    def spend(self, budget: float, rounds: int = 100) -> None:
        """Go on while a step fits into the budget and the error falls, until J was used up `rounds` times."""
        first = self.pilots.evaluations
        while rounds > 0 and self.pilots.evaluations - first + self.cost <= budget and self.advance():
            rounds -= self.jacobian is None

    def _step(self, jacobian: Tensor, trials: int) -> None:
        count = len(self.residual)
        gram = (jacobian @ jacobian.T).double().cpu().numpy() / count + self.ridge * np.eye(len(self.theta))
        slope = (jacobian @ self.residual).double().cpu().numpy() / count + self.ridge * self.theta
        for _ in range(trials):
            change, plan = self._move(gram + np.diag(self.damping * np.diag(gram) + 1e-12 * np.trace(gram)), slope)
            theta = self.theta + change
            residual = None if plan is None else self.pilots.residual(plan)
            if plan is not None and residual is not None and self._better(size_of(residual), theta):
                # Broyden: J agrees with the step just taken and is unchanged across it.
                d = torch.from_numpy(change).to(residual.device, residual.dtype)
                jacobian.addr_(d / (d @ d), residual - self.residual - d @ jacobian)
                self.theta, self.plan, self.residual, self.train = theta, plan, residual, size_of(residual)
                self.damping = max(self.damping / 5.0, 1e-9)
                held_out = self.pilots.error(plan, "held-out")
                if held_out < self.best[0]:
                    self.best = (held_out, self.train, plan, theta)
                return
            self.damping *= 10.0

    def _move(self, matrix: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, Plan | None]:
        """Solution of matrix d = -slope, 1 at most, and its plan; numbers that may not move so far stay as they are."""
        scale = np.sqrt(np.diag(matrix))
        scale[scale == 0.0] = 1.0
        free = np.ones(len(slope), dtype=bool)
        unit = np.eye(len(slope))
        while free.any():
            change = np.zeros(len(slope))
            part = matrix[np.ix_(free, free)] / np.outer(scale[free], scale[free])
            change[free] = -np.linalg.lstsq(part, slope[free] / scale[free])[0] / scale[free]
            change /= max(1.0, np.abs(change).max())
            plan = self._plan(self.theta + change)
            if plan is not None:
                return change, plan
            # Asking which numbers are outside of what the family allows costs no evaluation.
            blocked = [i for i in np.flatnonzero(free) if self._plan(self.theta + change[i] * unit[i]) is None]
            if not blocked:
                break
            free[blocked] = False
        return np.zeros(len(slope)), None

    def _better(self, error: float, theta: np.ndarray) -> bool:
        penalty = self.ridge * float(theta @ theta - self.theta @ self.theta)
        return error < self.train and error**2 + penalty < self.train**2

    def _plan(self, theta: np.ndarray) -> Plan | None:
        try:
            return self.family.plan(theta)
        except (ConfigError, ArithmeticError, ValueError):
            return None

    def _column(self, i: int) -> Tensor:
        """Derivative of the residual by number i; zero where neither side of it has a plan."""
        for h in (_STEP, -_STEP):
            theta = self.theta.copy()
            theta[i] += h
            plan = self._plan(theta)
            residual = None if plan is None else self.pilots.residual(plan)
            if residual is not None:
                return (residual - self.residual) / h
        return torch.zeros_like(self.residual)

    def tuned(self, sampler: Told, evaluations: int) -> Tuned:
        """The best plan passed; `evaluations` were spent on it."""
        held_out, train, plan, _ = self.best
        errors = (self.start[0], train), (self.start[1], held_out)
        return Tuned(plan, sampler, self.pilots.objective, *errors, evaluations)


_STEP = 1e-3
"""Of the forward differences: above the rounding of float32 runs, below the curvature."""

_WORTHWHILE = 0.8
"""A step that leaves more of the error than this asks for a new J."""

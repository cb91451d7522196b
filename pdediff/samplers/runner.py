"""The one runner: folds a plan on fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers.bands import apply_band
from pdediff.samplers.brownian import BrownianPath
from pdediff.samplers.kernels import KERNELS, Kernel
from pdediff.samplers.plan import STATE, Plan
from pdediff.samplers.steps import Band, Eval, Kick, Lin
from pdediff.types import fold

Observer = Callable[[int, float, Tensor, Tensor], None]
"""Called after each evaluation with its number, the level, the state and the denoised state.

The tensors are overwritten by later steps: copy what is kept.
"""

Hook = Callable[[Tensor, Tensor, float], Tensor]
"""(denoised, x, sigma) -> what stands for E[x0 | x]: a projection, a constraint, a guidance."""


def run(
    plan: Plan,
    denoiser: Denoiser,
    x: Tensor,
    seeds: Sequence[int],
    *,
    observe: Observer | None = None,
    hooks: Sequence[Hook] = (),
    kernels: Mapping[str, Kernel] = KERNELS,
    path: bool = False,
    gradients: bool = False,
    denoise_last: bool = False,
) -> Tensor:
    """The state at the last level of the plan, from x (batch, channel, *space) at its first level.

    The state stays in x.dtype, the coefficients are float64 numbers; the denoiser is called in its own dtype, and the
    hooks change what it returns, in their order. Noise number k of row i comes from `fold(seeds, k)[i]` and has the
    law of `denoiser.noise`; with `path` it is the increment of one Brownian path of each row, which any number of steps
    sees alike. Draw the start from other seeds. `denoise_last` returns E[x0 | x] at the last level instead, one
    evaluation more. x itself is not written.

    Gradients flow if x requires them, or with `gradients` to whatever the denoiser depends on; each evaluation is
    repeated in the backward pass, so only the states between them are kept (discrete adjoint with checkpoints).

    `ConfigError` for a wrong number of seeds, a denoiser that changes the shape, an unknown kernel or a step without
    a clock under `path`; `NumericalError` that names step and level if the result is not finite.
    """
    if denoise_last and plan.levels[-1] > 0.0:
        last = (Eval("last", STATE, plan.levels[-1]), Lin(STATE, (("last", 1.0),)))
        plan = Plan((*plan.steps, *last), plan.levels, plan.inputs)
    walk = Walk(denoiser, seeds, hooks=hooks, kernels=kernels, path=path, gradients=gradients)
    return walk(plan, {STATE: x}, observe=observe)[STATE]


class Walk:
    """How plans are folded: the denoiser, the seeds of the rows and the rest that `run` explains.

    Calling it takes the slots that a plan starts from to all slots at its end, for plans that need more than a state.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        seeds: Sequence[int],
        *,
        hooks: Sequence[Hook] = (),
        kernels: Mapping[str, Kernel] = KERNELS,
        path: bool = False,
        gradients: bool = False,
    ) -> None:
        self.denoiser, self.seeds, self.hooks, self.kernels = denoiser, seeds, tuple(hooks), kernels
        self.path, self.gradients = path, gradients

    def __call__(
        self, plan: Plan, start: Mapping[str, Tensor], *, observe: Observer | None = None
    ) -> dict[str, Tensor]:
        """All slots after the last step; `run` says what is raised."""
        x = start[plan.inputs[0]]
        if len(self.seeds) != x.shape[0]:
            raise ConfigError(f"run needs one seed for each of {x.shape[0]} rows, got {len(self.seeds)}")
        self._check(plan)
        wanted = self.gradients or any(slot.requires_grad for slot in start.values())
        tracked = wanted and torch.is_grad_enabled()
        with torch.set_grad_enabled(tracked):
            out = self._fold(plan, start, observe=observe, tracked=tracked)
            if not bool(torch.isfinite(out[STATE]).all()):
                # Nothing was checked on the way, so that a GPU is never waited for: walk again and look at each step.
                self._fold(plan, start, tracked=tracked, check=True)
                raise NumericalError("the result of sampling is not finite, but a second run of the same plan was")
        return out

    def _check(self, plan: Plan) -> None:
        if not (self.path or plan.kicks):
            return
        for number, step in enumerate(plan.steps):
            if isinstance(step, Kick) and step.kernel not in self.kernels:
                raise ConfigError(f"plan step {number} asks for kernel {step.kernel!r}, not in {sorted(self.kernels)}")
            unclocked = isinstance(step, (Band, Kick)) or (isinstance(step, Lin) and step.variance and not step.span)
            if self.path and unclocked:
                raise ConfigError(f"plan step {number} has noise without a Brownian clock", hint="run with path=False")

    def _fold(
        self,
        plan: Plan,
        start: Mapping[str, Tensor],
        *,
        observe: Observer | None = None,
        tracked: bool,
        check: bool = False,
    ) -> dict[str, Tensor]:
        slots = {name: start[name].clone() for name in plan.inputs}
        x = slots[plan.inputs[0]]
        reuse = not (tracked or check)
        source = _Source(self.denoiser, self.seeds, x, self.path)
        sigmas = plan.evaluated
        levels = torch.tensor(sigmas, dtype=self.denoiser.dtype, device=x.device)
        rows = iter(levels[:, None].expand(-1, x.shape[0]).unbind())
        count = 0
        for step, reusable in zip(plan.steps, plan.reuses, strict=True):
            if isinstance(step, Lin):
                value = _combine(step, slots, source, reuse and reusable)
            elif isinstance(step, Eval):
                state = slots[step.src]
                value = self._evaluate(state, next(rows), step.level)
                if observe is not None:
                    observe(count, step.level, state, value)
                count += 1
            elif isinstance(step, Band):
                value = apply_band(step, slots, source(step) if step.noisy else None)
            else:
                value = self._kick(step, slots[step.slot], next(rows), source)
                count += 1
            slots[step.dst] = value
            if check:
                _check_finite(value, isinstance(step, Eval), count, sigmas, plan.levels[0])
        return slots

    def _evaluate(self, x: Tensor, level: Tensor, sigma: float) -> Tensor:
        given = x.to(self.denoiser.dtype)
        if torch.is_grad_enabled():
            denoised = checkpoint(self.denoiser, given, level, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(denoised, Tensor)
        else:
            denoised = self.denoiser(given, level)
        for hook in self.hooks:
            denoised = hook(denoised, given, sigma)
        if denoised.shape != x.shape:
            culprit = self.denoiser if not self.hooks else self.hooks[-1]
            raise ConfigError(
                f"{_name(culprit)} returned shape {tuple(denoised.shape)} for a state of {tuple(x.shape)}",
                hint="a denoiser returns E[x0 | x] in the shape of x",
            )
        denoised = denoised.to(x.dtype)
        # A denoiser may return its argument; the state is overwritten in place later.
        return denoised.clone() if denoised.data_ptr() == x.data_ptr() else denoised

    def _kick(self, step: Kick, x: Tensor, level: Tensor, source: _Source) -> Tensor:
        kernel = self.kernels[step.kernel]
        return kernel(x, step, lambda state: self._evaluate(state, level, step.level), source.fresh)


class _Source:
    """Noise of the steps of one fold; the last one is kept, because a corrector shares it with its predictor."""

    def __init__(self, denoiser: Denoiser, seeds: Sequence[int], like: Tensor, path: bool) -> None:
        self.noise, self.seeds, self.like = denoiser.noise, seeds, like
        self.path = BrownianPath(denoiser.noise, seeds, like.shape[1:]) if path else None
        self.last: tuple[int, Tensor] | None = None

    def __call__(self, step: Lin | Band) -> Tensor:
        if self.last is None or self.last[0] != step.key:
            if self.path is not None and isinstance(step, Lin) and step.span is not None:
                xi = self.path.increment(*step.span).to(self.like.device, self.like.dtype)
            else:
                xi = self.fresh(step.key)
            self.last = (step.key, xi)
        return self.last[1]

    def fresh(self, key: int) -> Tensor:
        """Noise of this number, from the seeds of the rows."""
        return self.noise.sample(fold(self.seeds, key), self.like.shape[1:], self.like.dtype).to(self.like.device)


def _combine(step: Lin, slots: Mapping[str, Tensor], source: _Source, reuse: bool) -> Tensor:
    """The value of a linear step; with `reuse` it is written into the tensor that its slot holds."""
    first, c = step.terms[0]
    value, rest = slots[first], step.terms[1:]
    if c == 1.0 and rest:
        second, weight = rest[0]
        out = torch.add(value, slots[second], alpha=weight, out=slots[step.dst] if reuse else None)
        rest = rest[1:]
    elif not reuse:
        out = value * c
    elif first == step.dst:
        out = value.mul_(c)
    else:
        out = torch.mul(value, c, out=slots[step.dst])
    in_place = not torch.is_grad_enabled()
    for name, weight in rest:
        out = out.add_(slots[name], alpha=weight) if in_place else out.add(slots[name], alpha=weight)
    if step.variance > 0.0:
        xi, root = source(step), math.sqrt(step.variance)
        out = out.add_(xi, alpha=root) if in_place else out.add(xi, alpha=root)
    return out


def _check_finite(value: Tensor, evaluated: bool, count: int, sigmas: Sequence[float], start: float) -> None:
    bad = ~torch.isfinite(value).flatten(1).all(1)
    if not bool(bad.any()):
        return
    rows = bad.nonzero()[:, 0].tolist()
    sigma = sigmas[max(count - 1, 0)] if sigmas else start
    what = "the denoised state" if evaluated else "the state"
    raise NumericalError(
        f"{what} is not finite at step {count} of {len(sigmas)}, noise level sigma={sigma:g}, in {len(rows)} rows",
        hint="take more steps, a lower order, weaker guidance or float64",
        context={"step": count, "sigma": sigma, "rows": rows[:16]},
    )


def _name(given: object) -> str:
    return str(getattr(given, "__name__", type(given).__name__))

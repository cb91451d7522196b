"""The one runner: folds a plan on fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers.plan import STATE, Eval, Lin, Plan
from pdediff.types import fold

Observer = Callable[[int, float, Tensor, Tensor], None]
"""Called after each evaluation with its number, the level, the state and the denoised state.

The tensors are overwritten by later steps: copy what is kept.
"""


def run(
    plan: Plan,
    denoiser: Denoiser,
    x: Tensor,
    seeds: Sequence[int],
    *,
    observe: Observer | None = None,
    denoise_last: bool = False,
) -> Tensor:
    """The state at the last level of the plan, from x (batch, channel, *space) at its first level.

    The state stays in x.dtype, the coefficients are float64 numbers; the denoiser is called in its own dtype. Noise
    number k of row i comes from `fold(seeds, k)[i]` and has the law of `denoiser.noise`; draw the start from other
    seeds. `denoise_last` returns E[x0 | x] at the last level instead, one evaluation more. x itself is not written.
    Gradients flow if x requires them. `ConfigError` for a wrong number of seeds or a denoiser that changes the shape;
    `NumericalError` that names step and level if the result is not finite.
    """
    if len(seeds) != x.shape[0]:
        raise ConfigError(f"run needs one seed for each of {x.shape[0]} rows, got {len(seeds)}")
    if denoise_last and plan.levels[-1] > 0.0:
        last = (Eval("last", STATE, plan.levels[-1]), Lin(STATE, (("last", 1.0),)))
        plan = Plan((*plan.steps, *last), plan.levels)
    differentiable = x.requires_grad and torch.is_grad_enabled()
    with torch.set_grad_enabled(differentiable):
        out = _fold(plan, denoiser, x, seeds, observe=observe, reuse=not differentiable)
        if not bool(torch.isfinite(out).all()):
            # Nothing was checked on the way, so that a GPU is never waited for: walk again and look at each step.
            _fold(plan, denoiser, x, seeds, reuse=False, check=True)
            raise NumericalError("the result of sampling is not finite, but a second run of the same plan was")
    return out


def _fold(
    plan: Plan,
    denoiser: Denoiser,
    x: Tensor,
    seeds: Sequence[int],
    *,
    observe: Observer | None = None,
    reuse: bool = True,
    check: bool = False,
) -> Tensor:
    sigmas = [step.level for step in plan.steps if isinstance(step, Eval)]
    levels = torch.tensor(sigmas, dtype=torch.float64).to(x.device, denoiser.dtype)
    slots = {STATE: x.clone()}
    owned = {STATE} if reuse else set()
    noise: tuple[int, Tensor] | None = None
    count = 0
    for step in plan.steps:
        if isinstance(step, Eval):
            state = slots[step.src]
            slots[step.dst] = _evaluate(denoiser, state, levels[count])
            owned.discard(step.dst)
            if observe is not None:
                observe(count, step.level, state, slots[step.dst])
            count += 1
        else:
            if step.variance > 0.0 and (noise is None or noise[0] != step.key):
                xi = denoiser.noise.sample(fold(seeds, step.key), x.shape[1:], x.dtype).to(x.device)
                noise = (step.key, xi)
            slots[step.dst] = _combine(step, slots, noise, step.dst in owned)
            if reuse:
                owned.add(step.dst)
        if check:
            _check_finite(slots[step.dst], isinstance(step, Eval), count, sigmas)
    return slots[STATE]


def _evaluate(denoiser: Denoiser, x: Tensor, level: Tensor) -> Tensor:
    given = x.to(denoiser.dtype)
    denoised = denoiser(given, level.expand(x.shape[0]))
    if denoised.shape != x.shape:
        raise ConfigError(
            f"{type(denoiser).__name__} returned shape {tuple(denoised.shape)} for a state of {tuple(x.shape)}",
            hint="a denoiser returns E[x0 | x] in the shape of x",
        )
    denoised = denoised.to(x.dtype)
    # A denoiser may return its argument; the state is overwritten in place later.
    return denoised.clone() if denoised.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else denoised


def _combine(step: Lin, slots: dict[str, Tensor], noise: tuple[int, Tensor] | None, owned: bool) -> Tensor:
    (first, c), *rest = step.terms
    if not owned or step.dst in dict(rest):
        out = slots[first] * c
    elif first == step.dst:
        out = slots[first].mul_(c)
    else:
        out = torch.mul(slots[first], c, out=slots[step.dst])
    in_place = owned or not out.requires_grad
    for name, weight in rest:
        out = out.add_(slots[name], alpha=weight) if in_place else out.add(slots[name], alpha=weight)
    if step.variance > 0.0 and noise is not None:
        out = out.add(noise[1], alpha=math.sqrt(step.variance))
    return out


def _check_finite(value: Tensor, evaluated: bool, count: int, sigmas: Sequence[float]) -> None:
    bad = ~torch.isfinite(value).flatten(1).all(1)
    if not bool(bad.any()):
        return
    rows = bad.nonzero()[:, 0].tolist()
    sigma = sigmas[max(count - 1, 0)]
    what = "the denoised state" if evaluated else "the state"
    raise NumericalError(
        f"{what} is not finite at step {count} of {len(sigmas)}, noise level sigma={sigma:g}, in {len(rows)} rows",
        hint="take more steps, a lower order, weaker guidance or float64",
        context={"step": count, "sigma": sigma, "rows": rows[:16]},
    )

"""From samples back to the noise they came from: the probability flow upwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.samplers.ab_pc import multistep
from pdediff.samplers.bdia import BDIA
from pdediff.samplers.plan import STATE, Plan, Sampler, check_levels
from pdediff.samplers.runner import Hook, Walk


def inverse_plan(sampler: Sampler, sigmas: Sequence[float]) -> Plan:
    """Plan from the last of the decreasing levels `sigmas` up to the first.

    For `BDIA` the exact inverse of its plan, which starts from two states. For any other deterministic sampler the
    predictor-corrector in its field and of its order along the reversed levels: both follow the same flow, so the
    round trip errs as steps^-order of the sampler, and no less for more digits.

    `ConfigError` for a stochastic sampler, or if the last level is 0, from where no flow leads up (unless BDIA).
    """
    if isinstance(sampler, BDIA):
        return sampler.inverse(sigmas)
    levels = check_levels(sigmas, sampler.order)
    if sampler.plan(levels).stochastic:
        raise ConfigError(
            f"{type(sampler).__name__} adds noise, which has no inverse", hint="take a deterministic sampler"
        )
    if levels[-1] == 0.0:
        raise ConfigError("the flow cannot be followed upwards from level 0", hint="end the levels at sigma_min > 0")
    of, order = sampler.integrator(len(levels) - 1)
    return multistep(levels[::-1], of, order, corrector=True)


def invert(
    denoiser: Denoiser,
    end: Mapping[str, Tensor],
    sampler: Sampler,
    sigmas: Sequence[float],
    *,
    hooks: Sequence[Hook] = (),
) -> dict[str, Tensor]:
    """Slots at the first level of `sigmas` from those at the last: "x", and "before" (the second state) for BDIA.

    `end` is what `Walk` returned for the plan of the same sampler and levels; {"x": x} is enough for all but `BDIA`.
    Editing and assimilation start from this noise. Errors as in `inverse_plan`, and `ConfigError` for a missing slot.
    """
    plan = inverse_plan(sampler, sigmas)
    missing = set(plan.inputs) - set(end)
    if missing:
        raise ConfigError(f"the inverse of {type(sampler).__name__} needs slots {plan.inputs}, got {sorted(end)}")
    walk = Walk(denoiser, range(len(end[STATE])), hooks=hooks)
    return walk(plan, {name: end[name] for name in plan.inputs})

"""What is kept of sensors from case to case: shared by their readings, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch

from pdediff.observe import GaussianNoise
from pdediff.posterior import CalibratedGuidance, GuidedSampling
from pdediff.posterior.meter import Metered
from pdediff.posterior.seen import seen
from pdediff.samplers import DPMSolverPP


def test_cases_of_the_same_sensors_share_their_gains(field) -> None:
    """Whatever was read, and through wrappers that only count; another prior, operator or error shares nothing."""
    prior, one = field.prior, field.observation
    other = replace(one, y=one.y + 1.0)
    kept = seen(prior, one)
    assert seen(prior, other) is kept
    assert seen(Metered(prior, one), other) is kept
    first = kept.conditioning(prior, one, 0.5)
    assert kept.conditioning(prior, other, 0.5) is first
    assert kept.conditioning(prior, one, 0.6) is not first
    noisy = replace(one, noise=GaussianNoise(2 * one.noise.std))
    for changed in (
        seen(prior, noisy),
        seen(replace(prior), one),
        seen(prior, replace(one, operator=replace(one.operator))),
    ):
        assert changed is not kept
        assert not changed.levels


def test_a_case_after_another_is_what_it_is_alone(field) -> None:
    """The readings of the first case must not be those of the second: bit for bit."""
    posterior = GuidedSampling(CalibratedGuidance(), DPMSolverPP(noise=1.0), steps=6)
    one, other = field.observation, replace(field.observation, y=field.observation.y + 1.0)
    fresh = replace(other, operator=replace(other.operator))
    alone = posterior(field.prior, fresh, 3, 7).x
    posterior(field.prior, one, 3, 7)
    after = posterior(field.prior, other, 3, 7).x
    torch.testing.assert_close(after, alone, rtol=0, atol=0)
    assert (after - posterior(field.prior, one, 3, 7).x).abs().max() > 0.1

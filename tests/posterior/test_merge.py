"""Several runs as one set of draws: worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.posterior import Draws, merge
from pdediff.posterior.base import island_weights


def run(first: int, n: int, evidence: float | None = None) -> Draws:
    x = torch.arange(first, first + n, dtype=torch.float64).reshape(n, 1, 1)
    return Draws.equal(x, {} if evidence is None else {"log_evidence": evidence, "ess_min": evidence})


def test_independent_draws_weigh_alike_when_the_last_run_is_cut():
    """Eight draws and three of the next eight: eleven draws of weight 1/11."""
    merged = merge([(run(0, 8), 8), (run(8, 8), 3)])
    assert merged.x.flatten().tolist() == list(range(11))
    torch.testing.assert_close(merged.log_weights.exp(), torch.full((11,), 1 / 11, dtype=torch.float64))


def test_islands_weigh_by_evidence_and_the_evidence_is_their_mean():
    """Islands of two with evidences 1 and 3: a quarter and three quarters; one cut to one draw counts half."""
    parts = [(run(0, 2, math.log(1.0)), 2), (run(2, 2, math.log(3.0)), 2)]
    merged = merge(parts)
    expected = torch.tensor([0.125, 0.125, 0.375, 0.375], dtype=torch.float64)
    torch.testing.assert_close(merged.log_weights.exp(), expected)
    assert merged.diagnostics["log_evidence"] == math.log(2.0)
    cut = merge([parts[0], (parts[1][0], 1)])
    torch.testing.assert_close(cut.log_weights.exp(), torch.tensor([1, 1, 3], dtype=torch.float64) / 5)


def test_one_cut_run_keeps_its_first_draws():
    merged = merge([(run(0, 8), 5)])
    assert merged.x.flatten().tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(merged.log_weights.exp(), torch.full((5,), 0.2, dtype=torch.float64))


def test_one_lucky_island_does_not_take_all_the_weight():
    """log Z 0, 0, 0, 20: alone the last would count as one of four; tempered the effective number is two."""
    log_z = torch.tensor([0.0, 0.0, 0.0, 20.0], dtype=torch.float64)
    share = island_weights(log_z).softmax(0)
    assert float(1 / share.square().sum()) == pytest.approx(2)
    # (1 + 3 p)^2 = 2 (1 + 3 p^2), p the weight of an island over that of the last.
    p = (-6 + math.sqrt(36 + 12)) / 6
    torch.testing.assert_close(share[:3] / share[3], torch.full((3,), p, dtype=torch.float64))
    merged = merge([(run(4 * i, 4, float(z)), 4) for i, z in enumerate(log_z)])
    torch.testing.assert_close(merged.log_weights.exp().reshape(4, 4).sum(1), share)
    # The evidence is that of the islands as they are.
    assert merged.diagnostics["log_evidence"] == pytest.approx(20 - math.log(4))


def test_islands_that_agree_are_not_tempered():
    log_z = torch.tensor([-0.5, 0.0, 0.7, 0.2], dtype=torch.float64)
    assert torch.equal(island_weights(log_z), log_z)

"""EnKG and EKI against their published updates, written out."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pdediff.diffusion import GaussianPrior
from pdediff.observe import GaussianNoise, Linear, Observation
from pdediff.posterior import EKI, EnKG
from pdediff.posterior.ensemble import ensembles, prior_ensembles
from pdediff.samplers import edm_grid, gaussian_start
from pdediff.types import Field, fold, normal

MEMBERS = 6


class Square(Linear):
    """Readings x^2 of the first two of three values: not linear, whatever its base says of derivatives."""

    def __call__(self, x: Field) -> Tensor:
        return x.flatten(1)[:, :2] ** 2


def posed() -> tuple[GaussianPrior, Observation]:
    root = normal((1,), (3, 3), dtype=torch.float64)[0]
    prior = GaussianPrior(torch.ones(1, 3, dtype=torch.float64), root @ root.T + 0.1 * torch.eye(3))
    noise = GaussianNoise(torch.tensor([0.5, 2.0], dtype=torch.float64))
    return prior, Observation(torch.tensor([1.5, 0.3], dtype=torch.float64), Square(), noise)


def moved(x: Tensor, predicted: Tensor, observation: Observation, scale: float) -> Tensor:
    """x_j - s / |C| sum_k C_jk (x_k - mean), C_jk = <h_j - y, h_k - mean h> / J, readings in units of their noise."""
    h, y = predicted / observation.noise.std, observation.y / observation.noise.std
    flat = x.flatten(1)
    C = torch.tensor([[float((a - y) @ (b - h.mean(0))) / len(x) for b in h] for a in h], dtype=torch.float64)
    step = [sum(C[j, k] * (flat[k] - flat.mean(0)) for k in range(len(x))) for j in range(len(x))]
    return (flat - scale / float(C.square().sum().sqrt()) * torch.stack(step)).reshape(x.shape)


def test_the_updates_are_those_of_algorithm_1() -> None:
    """Levels of the published grid, no update at the first, x0-hat by Euler steps of the flow, then an Euler step."""
    prior, observation = posed()
    found = EnKG(MEMBERS, steps=9, updates=2, scale=0.7, factor=4, sigma_max=3.0)(prior, observation, MEMBERS, 5)

    def euler(x: Tensor, levels: list[float]) -> Tensor:
        for level, after in itertools.pairwise(levels):
            slope = (x - prior(x, torch.full((len(x),), level, dtype=torch.float64))) / level
            x = x + (after - level) * slope
        return x

    seeds = tuple(fold((first,), j)[0] for first in ensembles(MEMBERS, MEMBERS, 5) for j in range(MEMBERS))
    x, levels = gaussian_start(prior, 3.0, seeds), edm_grid(3.0, 0.02, 8)
    assert len(levels) == 9
    for i, level in enumerate(levels):
        for _ in range(2 if i else 0):
            ahead = min(1 + (9 - i) // 4, 20)
            inner = edm_grid(level, min(0.02, level) / 2, ahead - 1) if ahead > 1 else [level]
            end = euler(x, [*inner, 0.0])
            x = moved(x, observation.operator(end), observation, 0.7)
        x = euler(x, [level, levels[i + 1] if i < 8 else 0.0])
    torch.testing.assert_close(found.x, x, rtol=1e-9, atol=1e-9)
    assert found.diagnostics["forward_calls"] == 2 * 8
    calls = [2 * min(1 + (9 - i) // 4, 20) for i in range(1, 9)]
    assert found.diagnostics["denoiser_calls"] == sum(calls) + 9


def test_inversion_moves_by_the_same_update_of_the_fields_themselves() -> None:
    prior, observation = posed()
    x = prior_ensembles(prior, ensembles(MEMBERS, MEMBERS, 5), MEMBERS)
    for _ in range(3):
        x = moved(x, observation.operator(x), observation, 0.4)
    found = EKI(MEMBERS, updates=3, scale=0.4)(prior, observation, MEMBERS, 5)
    torch.testing.assert_close(found.x, x, rtol=1e-10, atol=1e-10)


def test_members_of_other_ensembles_do_not_count() -> None:
    """Two ensembles: each is the one that is asked for alone, to the rounding of a batch."""
    prior, observation = posed()
    both = EnKG(MEMBERS, steps=5, scale=0.5, sigma_max=3.0)(prior, observation, 2 * MEMBERS, 5).x
    alone = EnKG(MEMBERS, steps=5, scale=0.5, sigma_max=3.0)(prior, observation, MEMBERS, 5).x
    torch.testing.assert_close(both[:MEMBERS], alone, rtol=0, atol=1e-10)
    assert float((both[MEMBERS:] - alone).abs().max()) > 0.1


def test_in_one_dimension_a_move_has_the_length_of_the_norm() -> None:
    """Two members at -1 and 1 of a linear reading: |C| and the move by hand."""
    x = torch.tensor([[[-1.0]], [[1.0]]], dtype=torch.float64)
    observation = Observation(torch.tensor([3.0]).double(), Square(), GaussianNoise(torch.ones(1).double()))
    # h = x: C = [[4, -4], [2, -2]] / 2, |C| = sqrt(10); sum_k C_jk x_k = -4, -2
    wanted = x.flatten() + torch.tensor([4.0, 2.0]).double() / math.sqrt(10)
    torch.testing.assert_close(moved(x, x.flatten(1), observation, 1.0).flatten(), wanted)

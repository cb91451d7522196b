"""`sample`: presets by name, plans, conditions, hooks, and the same bits however the work is split."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import GaussianPrior, matern_field
from pdediff.errors import ConfigError
from pdediff.samplers import Plan, catalogue, named, names, sample, uniform_lambda

DIGEST = """
import hashlib, sys, torch
from pdediff.diffusion import matern_field
from pdediff.samplers import sample
prior = matern_field((16, 16), length=0.1, smoothness=2.0)
out = sample(prior, 16, sys.argv[1], 6, 3, tile=int(sys.argv[2]), path=sys.argv[3] == "path")
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""


def digest(preset: str, tile: int, path: bool = False) -> str:
    prior = matern_field((16, 16), length=0.1, smoothness=2.0)
    out = sample(prior, 16, preset, 6, 3, tile=tile, path=path)
    return hashlib.sha256(out.numpy().tobytes()).hexdigest()


def test_a_preset_is_what_its_config_says(config: str, sampler: Any) -> None:
    assert named(config) == sampler
    assert config in names()


def test_the_catalogue_tells_every_preset() -> None:
    rows = catalogue()
    assert [row["name"] for row in rows] == names()
    assert {row["name"]: (row["order"], row["nfe"]) for row in rows}["dpmpp_2m"] == (2, 1.0)
    assert all(len(str(row["source"])) > 10 for row in rows)


def test_samples_do_not_depend_on_how_rows_are_batched(config: str, sampler: Any) -> None:
    """To the last bit, for a denoiser whose rows do not meet in one matrix product."""
    assert len({digest(config, tile) for tile in (1, 3, 16)}) == 1


@pytest.mark.parametrize(("preset", "path"), [("default", False), ("ddpm", False), ("dpmpp_2m_sde", True)])
def test_two_processes_draw_the_same_bits(preset: str, path: bool) -> None:
    words = [sys.executable, "-c", DIGEST, preset, "3", "path" if path else "fresh"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert told == digest(preset, 16, path)


def test_name_sampler_and_plan_are_the_same_thing(oracle: Any) -> None:
    prior = oracle.mixture(8)
    by_name = sample(prior, 3, "dpmpp_2m", 7, sigma_min=0.05)
    chosen = named("dpmpp_2m")
    plan = chosen.plan(chosen.grid(7, 80.0, 0.05))
    assert torch.equal(by_name, sample(prior, 3, chosen, 7, sigma_min=0.05))
    assert torch.equal(by_name, sample(prior, 3, Plan.from_json(plan.to_json())))
    assert torch.equal(by_name, sample(prior, (3, 1, 8), "dpmpp_2m", 7, sigma_min=0.05))
    assert not torch.equal(by_name, sample(prior, 3, "ddim", 7, sigma_min=0.05))


def test_hooks_reach_the_denoised_state(oracle: Any) -> None:
    """A projection on mean zero: the samples have it when the last state is the projected one."""
    prior = oracle.mixture(8)

    def mean_zero(denoised: Tensor, x: Tensor, sigma: float) -> Tensor:
        return denoised - denoised.mean(-1, keepdim=True)

    out = sample(prior, 3, "ddim", 7, hooks=(mean_zero,), denoise_last=True)
    assert float(out.mean(-1).abs().max()) < 1e-14


def test_a_condition_is_bound_before_sampling(oracle: Any) -> None:
    """A regression prior N(B c, S): the samples under a condition are those of that Gaussian, bit by bit."""
    base = oracle.gaussian(4)

    @dataclasses.dataclass(frozen=True, eq=False)
    class Regression(GaussianPrior):
        def given(self, condition: Tensor) -> GaussianPrior:
            return GaussianPrior(self.mean + condition, self.covariance)

    shift = torch.tensor([[1.0, -2.0, 0.0, 4.0]], dtype=torch.float64)
    out = sample(Regression(base.mean, base.covariance), 5, "default", 9, condition=shift)
    assert torch.equal(out, sample(GaussianPrior(base.mean + shift, base.covariance), 5, "default", 9))
    with pytest.raises(ConfigError, match="GaussianPrior takes no condition"):
        sample(base, 5, condition=shift)


def test_wrong_questions_get_one_line(oracle: Any) -> None:
    prior = oracle.mixture(8)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sampler": "unipcc"}, "'unipcc' is not one of .*unipc"),
        ({"shape": (3, 1, 9)}, r"shape \(3, 1, 9\) is not n fields of \(1, 8\)"),
        ({"shape": 0}, "n >= 1"),
        ({"tile": 0}, "tile=0"),
        ({"grid": [1.0, 2.0]}, r"must decrease.*sigma\[0\]=1, sigma\[1\]=2"),
        ({"sampler": "dpmpp_2m", "steps": 1}, "order 2 needs at least 2 steps, got 1"),
        ({"sampler": named("ddim").plan(uniform_lambda(2.0, 1.0, 2)), "grid": [2.0, 1.0]}, "its own levels"),
        ({"sigma_min": 90.0}, "sigma_max > sigma_min"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigError, match=message) as caught:
            sample(prior, **{"shape": 3, **arguments})
        assert "\n" not in str(caught.value)

"""Every problem of configs/problem with every method of configs/posterior: draws, or a refusal with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo_recipe as zoo
from problem_recipe import SMALL, words

from pdediff import cli
from pdediff.config import build
from pdediff.errors import ConfigError, NumericalError
from pdediff.posterior import Posterior
from pdediff.stages.configs import ReconstructConfig
from pdediff.stages.problem_cases import problem_cases, problem_of, problem_prior, require_fit
from pdediff.stages.tiles import diverged, draw

DEAR = (
    "burgers1d",
    "burgers1d_space_time",
    "darcy_binary2d",
    "helmholtz_medium2d",
    "navier_stokes2d",
    "navier_stokes2d_re200",
)
"""Hundreds of solves of these take seconds even on the coarsest grid: methods that need many are left out there."""

CHEAP = {"dps", "es_mda", "eki", "kriging", "smc", "exact_gaussian", "fk_steering"}
"""One of each kind, of few solves."""

REASONS = (" needs ", "no prior on function space", "no common form", "has no grid of")
"""What else a refusal says."""

LINEAR = "needs readings that are linear in the unknown"


def told_by(error: ConfigError | NumericalError) -> str:
    """The reason of a refusal, which is one line with code 2; "diverges" for a numerical failure, in one line too."""
    assert len(error.message.splitlines()) == 1
    if isinstance(error, ConfigError):
        assert error.exit_code == 2
        return error.message
    return "diverges"


def outcome(name: str, method: str) -> str:
    """What the pair comes to: "draws", "diverges" or the reason why it is refused."""
    node, kept = zoo.problem(name), zoo.posterior(method)
    config = ReconstructConfig.model_validate(
        {"problem": node, "posterior": kept, "cases": 1, "draws": 2, "tile": 2, "name": "pair"}
    )
    posterior: Posterior = build("posterior", kept)
    prior = problem_prior(node)
    try:
        if name in DEAR and method not in CHEAP and not posterior.linear_only:
            return "left out"
        require_fit(posterior, prior)
        observation = problem_cases(node, 1, 0)[0].observation(prior)
        x = draw(posterior, prior.denoiser, observation, config, 0).x
    except (ConfigError, NumericalError) as error:
        return told_by(error)
    bad = diverged(x, prior.physical(x), prior.denoiser)
    assert torch.isfinite(x[~bad]).all()
    return "diverges" if bool(bad.any()) else "draws"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", SMALL)
def test_a_pair_draws_or_is_refused_with_the_reason(name: str) -> None:
    """No pair ends in another way; problems without linear readings refuse the methods for them, and no others do."""
    linear, found = problem_of(zoo.problem(name)).linear, {}
    for method in zoo.ZOO:
        found[method] = told = outcome(name, method)
        wanted = bool(build("posterior", zoo.posterior(method)).linear_only) and not linear
        assert (LINEAR in told) is wanted, (method, told)
    refused = {method: told for method, told in found.items() if told not in ("draws", "diverges", "left out")}
    for method, told in refused.items():
        print(f"{name}, {method}: {told}")
    print(f"{name}: diverge {[method for method, told in found.items() if told == 'diverges']}")
    others = {method: told for method, told in refused.items() if LINEAR not in told}
    for method, told in others.items():
        assert any(words in told for words in REASONS), (method, told)
    assert sum(told in ("draws", "left out") for told in found.values()) > len(found) / 3


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("darcy2d", "smc", f"TwistedSMC {LINEAR}; those of problem=darcy2d are not"),
        ("heat1d", "exact_mixture", "ExactMixture needs a Gaussian mixture prior, not GaussianFieldPrior"),
    ],
)
def test_a_refusal_is_one_line_and_code_2(
    name: str, method: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["reconstruct", *words(name), f"posterior={method}", "compute=inline"]
    assert cli.run([*given, "--data-root", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error[config]: {message}"
    assert len([line for line in lines if line.startswith("error")]) == 1

"""`pdediff reconstruct problem=NAME prior=RUN`: a trained prior for the readings of a problem."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_recipe as recipe
import torch
from problem_recipe import small

from pdediff import cli, stages
from pdediff.config import to_dict
from pdediff.diffusion import CosineFieldPrior, GaussianPrior
from pdediff.errors import ConfigError, MatchError
from pdediff.posterior import Conditioning
from pdediff.stages.priors import Prior
from pdediff.stages.problem_learned import learned_prior, unknown_of
from pdediff.stages.problems import exact_posterior, setup_of
from pdediff.store import open_store
from pdediff.types import Purpose, derive

TINY = ("network.widths=[8]", "network.features=8", "fit.steps=3", "fit.batch=8", "calibration.levels=3")
QUICK = ("cases=2", "draws=4", "tile=4", "posterior.steps=5")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a set of the sources of `poisson2d` and priors of them, hardly trained."""
    path = tmp_path_factory.mktemp("learned")
    words = ("pde=poisson2d", "grid=16", "samples=40", "split.train=0.6", "split.valid=0.2", "split.test=0.2")
    data = stages.generate(recipe.config("generate", *words), path, recipe.INLINE)
    runs = {"spectral": ("fields=[source]", "fit.skip=spectral"), "joint": (), "u": ("fields=[potential]",)}
    for name, more in runs.items():
        stages.train(recipe.config("train", *TINY, *more, f"name={name}"), data, path, recipe.INLINE)
    return path


def run_of(root: Path, name: str) -> Path:
    (found,) = (p for p in (root / "runs").iterdir() if p.name.startswith(f"{name}-"))
    return found


def in_other_units(name: str) -> tuple[Any, Prior]:
    """The exact prior of a problem as a training would give it: normalised fields, and another one beside them."""
    problem: Any = small(name)
    own: Any = setup_of(problem).prior
    unknown = unknown_of(problem)
    unit, offset, scale = float(unknown.scale.max()), 0.3, 1.7
    # field = unit * z = offset + scale * x, so that x = (unit * z - offset) / scale; the other channel is noise.
    one = torch.ones_like(own.mean)
    spectrum = torch.cat([one, own.spectrum * (unit / scale) ** 2])
    denoiser = CosineFieldPrior(torch.cat([0 * one, (unit * own.mean - offset) / scale]), spectrum)
    meta = {
        "fields": ["other", unknown.variable.name],
        "dims": list(unknown.variable.dims),
        "coordinates": problem.coordinates(),
        "units": {"other": "m", unknown.variable.name: unknown.variable.units},
    }
    offsets, scales = (torch.tensor([5.0, v], dtype=torch.float64).reshape(2, 1, 1) for v in (offset, scale))
    return problem, Prior(denoiser, offsets, scales, meta)


@pytest.mark.parametrize("name", ["poisson2d", "helmholtz2d"])
def test_the_normalisation_of_the_prior_is_composed_once(name: str) -> None:
    """With the exact law in the units of a training the posterior is the exact one, to rounding."""
    problem, trained = in_other_units(name)
    prior = learned_prior(to_dict(problem), "made", trained)
    case = problem.case(7)
    seen = prior.seen(case.observation)
    assert seen.operator.linear
    rows = seen.rows(prior.denoiser.mean)
    assert float(rows[:, 0].abs().max()) == 0.0
    c = Conditioning.of(seen, prior.denoiser.error(math.inf), rows)
    mean = c.update(prior.denoiser.mean[None], seen.residual(prior.denoiser.mean[None]))
    exact = exact_posterior(problem).mean(case.observation)
    torch.testing.assert_close(prior.physical(mean)[0], exact, rtol=0, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["poisson2d", "helmholtz2d", "advection_diffusion2d", "burgers1d", "darcy2d"])
def test_the_unknown_of_a_problem_is_its_first_field(name: str) -> None:
    problem = small(name)
    found = unknown_of(problem)
    assert found.variable == problem.variables()[0]
    z = setup_of(problem).draw((3, 4))
    with torch.no_grad():
        fields = setup_of(problem).fields(z)
    torch.testing.assert_close(found.offset + found.scale * z, fields[:, :1], rtol=1e-9, atol=1e-12)
    # On an edge where the field is 0 it says nothing of z.
    assert bool((found.scale == 0).any()) == (name == "helmholtz2d")


@pytest.mark.parametrize("name", ["spectral", "joint"])
def test_draws_are_those_of_the_trained_prior(name: str, root: Path) -> None:
    words = ("problem=poisson2d", "problem.grid=16", "problem.points=30", *QUICK, f"name={name}")
    run = run_of(root, name)
    path = stages.reconstruct(recipe.config("reconstruct", *words), run, None, root, recipe.INLINE)
    tree: Any = open_store(path)
    problem: Any = small("poisson2d")
    assert tree.attrs["exact_law"] == "posterior under the problem's own prior, not under that of the draws"
    assert {"exact_mean", "exact_std", "posterior_predictive"} <= set(tree.children)
    for case in range(2):
        drawn = problem.case(derive(0, Purpose.PROBLEM, case))
        np.testing.assert_array_equal(tree["observed_data/value"].values[case], drawn.observation.y.numpy())
    source, potential = (torch.from_numpy(tree[f"posterior/{f}"].values).double() for f in ("source", "potential"))
    # Fields and predicted readings belong to one another: stored in float32.
    solved = problem._solve(source.flatten(0, 1)[:, None])[:, 0].reshape(potential.shape)
    torch.testing.assert_close(potential, solved, rtol=0, atol=1e-5 * float(solved.abs().max()))
    where = setup_of(problem).layout.position * 15
    rows, columns = where.round().astype(int).T
    predicted = tree["posterior_predictive/noise_free"].values
    atol = 1e-5 * float(solved.abs().max())
    np.testing.assert_allclose(predicted, potential[:, :, rows, columns].numpy(), rtol=0, atol=atol)
    own = stages.reconstruct(recipe.config("reconstruct", *words), None, None, root, recipe.INLINE)
    assert own != path
    assert not np.allclose(open_store(own)["posterior/source"].values, source.numpy(), atol=1e-2)  # type: ignore[index]
    assert stages.verify(path) == []
    assert stages.reconstruct(recipe.config("reconstruct", *words), run, None, root, recipe.INLINE) == path


def test_what_does_not_fit_is_refused_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recipe.snapshot(root)

    def first_line(*words: str) -> str:
        assert cli.run(["reconstruct", *words, *QUICK, "--data-root", str(root)]) != 0
        return capsys.readouterr().err.splitlines()[0]

    grid16 = ("problem=poisson2d", "problem.grid=16", "problem.points=30")
    assert "knows (potential); the unknown of problem=poisson2d is source" in first_line(*grid16, "prior=u")
    told = first_line("problem=poisson2d", "problem.grid=32", "problem.points=30", "prior=spectral")
    assert "was trained on 16x16 points of (y, x); problem=poisson2d has 32x32 points of (y, x)" in told
    assert "data= beside problem=" in first_line(*grid16, "prior=spectral", "data=poisson2d")
    assert recipe.snapshot(root) == before


def test_other_units_and_coordinates_are_refused() -> None:
    problem, trained = in_other_units("poisson2d")
    node = to_dict(problem)
    wrong = replace(trained, meta=trained.meta | {"units": {"other": "m", "source": "Pa"}})
    with pytest.raises(MatchError, match="trained on source in 'Pa'"):
        learned_prior(node, "made", wrong)
    moved = {d: v + 0.5 for d, v in problem.coordinates().items()}
    with pytest.raises(MatchError, match="other coordinates there"):
        learned_prior(node, "made", replace(trained, meta=trained.meta | {"coordinates": moved}))


def test_a_problem_whose_unknown_is_no_field_takes_no_trained_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    problem: Any = small("poisson2d")
    made = setup_of(problem)
    two = GaussianPrior(torch.zeros(2, 16, 16, dtype=torch.float64), torch.eye(512, dtype=torch.float64))
    monkeypatch.setattr("pdediff.stages.problem_learned.setup_of", lambda _: replace(made, prior=two))
    with pytest.raises(ConfigError, match="takes no trained prior"):
        unknown_of(problem)

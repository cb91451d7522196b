"""`pdediff reconstruct problem=NAME`: no prior, no data, and the exact posterior beside the draws."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import problem_recipe
import pytest
import stage_recipe as recipe
import torch
from problem_recipe import LINEAR, NONLINEAR

from pdediff import cli, stages
from pdediff.config import build
from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes import Darcy, Problem
from pdediff.runtime import Runtime
from pdediff.stages.problems import exact_posterior
from pdediff.store import open_store
from pdediff.types import Purpose, derive

QUICK = ("cases=3", "draws=8", "tile=8", "posterior.steps=6")


def words(problem: str, *more: str) -> tuple[str, ...]:
    """Words of a quick run."""
    return (*problem_recipe.words(problem), *QUICK, f"name={problem}", *more)


def run(root: Path, *given: str, runtime: Runtime = recipe.INLINE) -> Path:
    """The stage, without a prior and without data."""
    return stages.reconstruct(recipe.config("reconstruct", *given), None, None, root, runtime)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished reconstruction of each linear problem."""
    root = tmp_path_factory.mktemp("problems")
    return {name: run(root, *words(name)) for name in LINEAR}


@pytest.mark.parametrize("name", LINEAR)
def test_the_store_holds_truth_readings_and_the_exact_posterior(name: str, made: dict[str, Path]) -> None:
    tree: Any = open_store(made[name])
    node = recipe.config("reconstruct", *words(name)).problem
    problem = build("problem", node)
    assert tree.attrs["problem"] == node
    for case in range(3):
        drawn = problem.case(derive(0, Purpose.PROBLEM, case))
        mean = exact_posterior(problem).mean(drawn.observation).numpy()
        np.testing.assert_array_equal(tree["observed_data/value"].values[case], drawn.observation.y.numpy())
        for channel, variable in enumerate(problem.variables()):
            for group, wanted in (("constant_data", drawn.truth.numpy()), ("exact_mean", mean)):
                array = tree[f"{group}/{variable.name}"]
                assert array.dims == ("case", *variable.dims)
                np.testing.assert_array_equal(array.values[case], wanted[channel].astype(np.float32))
    first = problem.variables()[0].name
    draws, exact = tree[f"posterior/{first}"].values, tree[f"exact_mean/{first}"].values
    std = tree[f"exact_std/{first}"].values
    assert draws.shape[1] == 8
    # six steps are rough: the mean of the draws is within half of a posterior standard deviation and the noise of 8
    inside = std[0] > 0
    assert np.sqrt(np.mean(((draws.mean(1) - exact) / np.where(inside, std, 1.0)) ** 2)) < 1.0
    assert (draws[:, :, ~inside] == 0).all()


@pytest.mark.parametrize("name", ["helmholtz2d", "advection_diffusion2d"])
def test_what_was_read_is_labelled(name: str, made: dict[str, Path]) -> None:
    seen: Any = open_store(made[name])["observed_data"]
    names, axes = seen["field"].attrs["fields"], seen["position"].attrs["axes"]
    wanted = {"helmholtz2d": ("wave", ["y", "x"]), "advection_diffusion2d": ("concentration", ["y", "x", "time"])}[name]
    assert {names[i] for i in seen["field"].values.ravel()} == {wanted[0]}
    assert list(axes) == wanted[1]
    assert seen["position"].shape[-1] == len(axes)


@pytest.mark.parametrize("name", ["heat1d", "helmholtz2d"])
def test_problems_are_scored_like_any_other_reconstruction(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    """On rings and squares, with the edge of a field at 0 and with sensors on another field."""
    report = stages.evaluate(recipe.config("evaluate", f"name={name}"), [made[name]], tmp_path, recipe.INLINE)
    scores = (report / "scores.json").read_text()
    assert all(metric in scores for metric in ("crps", "coverage_90", "rel_l2_mean", "misfit"))
    assert (report / "report.html").stat().st_size > 10_000


def test_a_nonlinear_problem_has_draws_and_no_exact_posterior(tmp_path: Path) -> None:
    tree: Any = open_store(run(tmp_path, *words("darcy2d", "draws=2", "tile=2", "cases=1", "posterior.steps=3")))
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data", "posterior_predictive", "constant_data"}
    log, pressure = (tree[f"posterior/{name}"].values[0] for name in ("log_permeability", "pressure"))
    solved = Darcy().solve(Problem({"permeability": torch.from_numpy(log).double().exp()}))["pressure"]
    np.testing.assert_allclose(pressure, solved.numpy(), rtol=1e-5, atol=1e-9)


def test_draws_that_diverge_are_told_even_where_no_solver_takes_them(tmp_path: Path) -> None:
    """Guidance that is far too strong: the state leaves all bounds, and its permeability is no number."""
    given = words("darcy2d", "posterior=dps", "posterior.guidance.strength=1e6", "cases=2", "draws=2", "tile=2")
    with pytest.raises(NumericalError, match="all 2 cases failed"):
        run(tmp_path, *given)
    (path,) = (tmp_path / "recon").iterdir()
    assert open_store(path)["status"].values.tolist() == [1, 1]


@pytest.mark.parametrize("posterior", ["kriging", "ddnm", "smc"])
@pytest.mark.parametrize("name", NONLINEAR)
def test_methods_for_linear_readings_are_refused_at_once(name: str, posterior: str, tmp_path: Path) -> None:
    given = [word for word in words(name, f"posterior={posterior}") if "steps" not in word]
    with pytest.raises(ConfigError, match=f"needs readings that are linear in the unknown; those of problem={name}"):
        run(tmp_path, *given)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "posterior", "line"),
    [
        ("heat1d", "exact_mixture", "ExactMixture needs a Gaussian mixture prior, not GaussianFieldPrior"),
        (
            "advection_mixture2d",
            "exact_gaussian",
            "ExactGaussian needs a Gaussian prior, not GaussianFieldMixturePrior",
        ),
    ],
)
def test_exact_methods_for_other_priors_are_refused_at_once(
    name: str, posterior: str, line: str, tmp_path: Path
) -> None:
    given = [word for word in words(name, f"posterior={posterior}") if "steps" not in word]
    with pytest.raises(ConfigError, match=line):
        run(tmp_path, *given)
    assert not any(tmp_path.iterdir())


class Stopped(Exception):
    """The end of a run before its time."""


class Stopping(Runtime):
    """Computes one item, then dies."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], **options: Any) -> list[Any]:
        super().map(function, items[:1], **options)
        raise Stopped


class Backwards(Runtime):
    """Gives the items in reverse order."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], **options: Any) -> list[Any]:
        return super().map(function, items[::-1], **options)


@pytest.mark.parametrize("runtime", [recipe.INLINE, Backwards(cluster="inline")], ids=["again", "backwards"])
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    runtime: Runtime, made: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, *words("heat1d"), runtime=Stopping(cluster="inline"))
    path = run(tmp_path, *words("heat1d"), runtime=runtime)
    assert path.name == made["heat1d"].name
    assert recipe.content(path) == recipe.content(made["heat1d"])
    before = recipe.snapshot(path)
    assert run(tmp_path, *words("heat1d")) == path
    assert recipe.snapshot(path) == before


def test_a_case_does_not_depend_on_how_many_there_are(made: dict[str, Path], tmp_path: Path) -> None:
    one: Any = open_store(run(tmp_path, *words("heat1d"), "cases=1", "draws=4"))
    all_: Any = open_store(made["heat1d"])
    for name in ("posterior/initial", "exact_mean/initial", "observed_data/value"):
        kept = (slice(0, 1), slice(0, 4)) if name.startswith("posterior") else slice(0, 1)
        np.testing.assert_array_equal(one[name].values, all_[name].values[kept])


def test_a_damaged_case_is_computed_again(made: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(made["heat1d"], tmp_path / "recon" / made["heat1d"].name))
    chunk = next(p for p in sorted((path / "data.zarr" / "posterior" / "initial" / "c").rglob("*")) if p.is_file())
    chunk.write_bytes(b"damage")
    assert stages.verify(path)
    assert stages.repair(path, tmp_path, recipe.INLINE) != []
    assert recipe.content(path) == recipe.content(made["heat1d"])


def test_series_and_space_time_fields_are_stored_and_scored(tmp_path: Path) -> None:
    """Fields whose dims are not those of the unknown, over time alone and over time and space."""
    for name, dims in (("lorenz63", ("time",)), ("burgers1d_space_time", ("time", "x"))):
        given = [
            word for word in words(name, "posterior=es_mda", "cases=1", "draws=4", "tile=4") if "steps" not in word
        ]
        path = run(tmp_path, *given, "posterior.ensemble=8", "posterior.steps=1")
        tree: Any = open_store(path)
        problem = build("problem", recipe.config("reconstruct", *given).problem)
        for channel, variable in enumerate(problem.variables()):
            assert tree[f"posterior/{variable.name}"].dims == ("case", "draw", *dims)
            truth = problem.case(derive(0, Purpose.PROBLEM, 0)).truth[channel].numpy()
            np.testing.assert_array_equal(tree[f"constant_data/{variable.name}"].values[0], truth.astype(np.float32))
        report = stages.evaluate(recipe.config("evaluate", f"name={name}"), [path], tmp_path, recipe.INLINE)
        assert (report / "report.html").stat().st_size > 10_000


def test_kriging_with_the_exact_prior_is_the_exact_posterior(tmp_path: Path) -> None:
    """Its draws are Matheron draws; it takes no steps."""
    given = [w for w in words("heat1d", "posterior=kriging", "draws=64", "tile=64") if "steps" not in w]
    tree: Any = open_store(run(tmp_path, *given))
    off = tree["posterior/initial"].values.mean(1) - tree["exact_mean/initial"].values
    assert np.abs(off / tree["exact_std/initial"].values).max() < 6.0 / 8.0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["problem=heat1d", "prior=x"], "error[config]: prior='x' is neither a folder nor a name"),
        (["problem=heat1d", "data=x"], "error[config]: data= beside problem="),
        (["problem=heat1d", "observations=x.csv"], "error[config]: observations= beside problem="),
        (["problem=heat1d", "observations.noise=0.1"], "error[config]: observations= beside problem="),
        (["problem=heat1d", "split=valid"], "error[config]: split= beside problem="),
        (["problem=heat2d"], "error[config]: problem='heat2d' is not one of "),
        (["problem=heat1d", "problem.points=15"], "error[config]: problem.points=15 must divide"),
        (["problem=heat1d", "problem.nu=1"], "error[config]: problem has no option 'nu'"),
        (["problem=poisson2d", "problem.grid=16"], "error[config]: problem.points=500 is more than"),
        (["problem=poisson2d", "problem.seen=all"], "error[config]: problem.seen='all' is not one of "),
        (["problem=poisson2d", "problem.noise=-1"], "error[config]: problem.noise=-1 must be at least 0"),
    ],
    ids=" ".join,
)
def test_wrong_words(given: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["reconstruct", *given, "--data-root", str(tmp_path / "data")]) == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0].startswith(line)
    assert not shown.out
    assert not any(tmp_path.iterdir())


def test_data_beside_a_problem_is_refused_from_python_too(tmp_path: Path) -> None:
    config = recipe.config("reconstruct", *words("heat1d"))
    with pytest.raises(ConfigError, match="data= beside problem="):
        stages.reconstruct(config, None, tmp_path, tmp_path / "data", recipe.INLINE)
    with pytest.raises(ConfigError, match="prior is missing"):
        stages.reconstruct(recipe.config("reconstruct"), None, None, tmp_path / "data", recipe.INLINE)
    assert not (tmp_path / "data").exists()

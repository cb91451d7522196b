"""The same bits for any number of workers, order, shard, tile filling and number of units asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_recipe as recipe

from pdediff import stages
from pdediff.runtime import Runtime
from pdediff.store import open_store


class Backwards(Runtime):
    """Gives the items in reverse order, each in a call of its own."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], **options: Any) -> list[Any]:
        return [
            failure for item in reversed(items) for failure in super(Backwards, self).map(function, [item], **options)
        ]


def contents(world: recipe.World, root: Path, runtime: Runtime) -> dict[str, str]:
    """Content hashes of data, samples and two reconstructions made in a fresh root from the prior of the job."""
    config = recipe.config
    data = stages.generate(config("generate", *recipe.GENERATE), root, runtime)
    drawn = stages.sample(config("sample", "n=10", "steps=4", "tile=4"), world.prior, root, runtime)
    made = [
        stages.reconstruct(config("reconstruct", *recipe.reconstruct_words(name)), world.prior, data, root, runtime)
        for name in ("calibrated", "smc")
    ]
    return {path.name: recipe.content(path) for path in (data, drawn, *made)}


@pytest.fixture(scope="module")
def inline(world: recipe.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process computes in order; the job of the session is part of it."""
    found = contents(world, tmp_path_factory.mktemp("inline"), recipe.INLINE)
    for path in (world.data, world.recon["calibrated"], world.recon["smc"]):
        assert found[path.name] == recipe.content(path)
    assert len(set(found.values())) == 4
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bits(
    workers: int, world: recipe.World, inline: dict[str, str], tmp_path: Path
) -> None:
    runtime = Runtime(cluster="local", workers=workers)
    with runtime.open():
        assert contents(world, tmp_path, runtime) == inline


def test_any_order_gives_the_same_bits(world: recipe.World, inline: dict[str, str], tmp_path: Path) -> None:
    assert contents(world, tmp_path, Backwards(cluster="inline")) == inline


def test_training_gives_the_same_bits_again(world: recipe.World, tmp_path: Path) -> None:
    data = Path(shutil.copytree(world.data, tmp_path / world.data.name))
    path = stages.train(recipe.config("train", *recipe.TRAIN), data, tmp_path, recipe.INLINE)
    assert path.name == world.prior.name
    assert recipe.content(path) == recipe.content(world.prior)
    # how often it saves is part of the config, not of the weights
    often = stages.train(recipe.config("train", *recipe.TRAIN, "fit.checkpoint_every=1"), data, tmp_path, recipe.INLINE)
    assert often != path
    assert recipe.content(often) == recipe.content(path)


@pytest.mark.parametrize("shard", [4, 16, 32])
def test_shards_change_where_a_sample_lies_and_nothing_else(shard: int, world: recipe.World, tmp_path: Path) -> None:
    words = (*recipe.GENERATE, f"shard={shard}")
    path = stages.generate(recipe.config("generate", *words), tmp_path, recipe.INLINE)
    assert path.name != world.data.name
    assert recipe.content(path) == recipe.content(world.data)


@pytest.mark.parametrize("samples", [1, 5, 13])
def test_a_sample_does_not_depend_on_how_many_there_are(samples: int, world: recipe.World, tmp_path: Path) -> None:
    path = stages.generate(recipe.config("generate", *recipe.GENERATE, f"samples={samples}"), tmp_path, recipe.INLINE)
    few: Any = open_store(path)
    many: Any = open_store(world.data)
    for name in ("permeability", "pressure", "seed"):
        np.testing.assert_array_equal(few[name].values, many[name].values[:samples])
    assert len(np.unique(many["permeability"].values, axis=0)) == 32


def test_a_draw_of_the_prior_does_not_depend_on_how_many_there_are(world: recipe.World, tmp_path: Path) -> None:
    words = ("steps=4", "tile=4", "sampler=ddpm")
    paths = [
        stages.sample(recipe.config("sample", *words, f"n={n}"), world.prior, tmp_path, recipe.INLINE) for n in (3, 10)
    ]
    few, many = (open_store(path)["pressure"].values for path in paths)
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many, axis=0)) == 10


@pytest.mark.parametrize("name", recipe.POSTERIORS)
def test_a_draw_does_not_depend_on_how_many_there_are(name: str, world: recipe.World, tmp_path: Path) -> None:
    """Five draws in a tile of eight are the first five of eight; one case is the first of two."""
    words = (*recipe.reconstruct_words(name), "draws=5", "cases=1")
    path = stages.reconstruct(recipe.config("reconstruct", *words), world.prior, world.data, tmp_path, recipe.INLINE)
    few: Any = open_store(path)
    many: Any = open_store(world.recon[name])
    for array in ("posterior/permeability", "posterior/pressure", "posterior_predictive/value"):
        np.testing.assert_array_equal(few[array].values, many[array].values[:1, :5])
    for array in ("observed_data/value", "observed_data/position", "constant_data/permeability"):
        np.testing.assert_array_equal(few[array].values, many[array].values[:1])
    weights = many["sample_stats/log_weight"].values[:1, :5]
    expected = weights - np.logaddexp.reduce(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(few["sample_stats/log_weight"].values, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["calibrated", "dps"])
def test_tiles_have_draws_of_their_own(name: str, world: recipe.World, tmp_path: Path) -> None:
    words = (*recipe.reconstruct_words(name), "draws=8", "tile=3", "cases=1")
    path = stages.reconstruct(recipe.config("reconstruct", *words), world.prior, world.data, tmp_path, recipe.INLINE)
    draws = open_store(path)["posterior/pressure"].values[0]
    assert len(np.unique(draws, axis=0)) == 8
    words = (*words, "draws=3")
    path = stages.reconstruct(recipe.config("reconstruct", *words), world.prior, world.data, tmp_path, recipe.INLINE)
    np.testing.assert_array_equal(open_store(path)["posterior/pressure"].values[0], draws[:3])

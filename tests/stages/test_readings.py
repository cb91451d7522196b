"""Where sensors stand, what they read, and which files of a user are refused with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import stage_recipe as recipe
import torch

from pdediff.errors import DataError
from pdediff.stages.configs import Sensors
from pdediff.stages.priors import Prior
from pdediff.stages.readings import Readings, box, describe, from_recipe, from_table, sensors_at
from pdediff.store import SetReader, read_observations

RECIPE = Sensors(sensors={"pressure": 12, "permeability": 4}, noise=0.05, on_grid=["permeability"])


@pytest.fixture(scope="module")
def truth(world: recipe.World, prior: Prior) -> np.ndarray:
    return SetReader(world.data).fields(prior.fields, [24])[0].numpy()


def same(a: Readings, b: Readings) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("field", "points", "value", "std"))


def on_ring(prior: Prior) -> Prior:
    """The same prior on a domain that wraps around along x."""
    return replace(prior, meta=prior.meta | {"periodic": [False, True]})


def test_readings_are_a_function_of_seed_and_sample(prior: Prior, truth: np.ndarray) -> None:
    first = from_recipe(RECIPE, prior, truth, 24, 0)
    from_recipe(RECIPE, prior, truth, 3, 7)  # what is asked for in between changes nothing
    torch.manual_seed(5)
    np.random.seed(5)
    assert same(from_recipe(RECIPE, prior, truth, 24, 0), first)
    turned = Sensors(sensors={"permeability": 4, "pressure": 12}, noise=0.05, on_grid=["permeability"])
    assert same(from_recipe(turned, prior, truth, 24, 0), first)  # a stored recipe has its keys sorted
    for sample, seed in ((25, 0), (24, 1)):
        other = from_recipe(RECIPE, prior, truth, sample, seed)
        assert not np.isin(other.points, first.points).all(1).any() or other.field[0] == 0
        assert not np.array_equal(other.points, first.points)
    moved = from_recipe(RECIPE, prior, truth * 0, 24, 0)
    np.testing.assert_array_equal(moved.points, first.points)
    clean = sensors_at(prior, first.field, first.points)(torch.from_numpy(truth)[None].double())[0].numpy()
    np.testing.assert_allclose(first.value - clean, moved.value, atol=1e-12)  # the noise knows seed and sample only


def test_the_noise_has_the_stated_size(prior: Prior, truth: np.ndarray) -> None:
    many = Sensors(sensors={"pressure": 4000}, noise=0.05)
    seen = from_recipe(many, prior, truth, 24, 0)
    clean = sensors_at(prior, seen.field, seen.points)(torch.from_numpy(truth)[None].double())[0].numpy()
    scale = float(prior.scale.flatten()[1])
    np.testing.assert_allclose(seen.std, 0.05 * scale, rtol=1e-6)
    z = (seen.value - clean) / seen.std
    assert abs(z.mean()) < 5 / 4000**0.5
    assert abs(z.std() - 1) < 5 / 8000**0.5


def test_sensors_stand_in_the_domain(prior: Prior, truth: np.ndarray) -> None:
    many = Sensors(sensors={"pressure": 4000, "permeability": 256}, on_grid=["permeability"])
    seen = from_recipe(many, prior, truth, 24, 0)
    np.testing.assert_allclose(box(prior), [(0.0, 1.0), (0.0, 1.0)], atol=1e-12)
    free = seen.points[seen.field == 1]
    assert ((free >= 0) & (free <= 1)).all()
    np.testing.assert_allclose([free.min(0), free.max(0)], [[0, 0], [1, 1]], atol=5e-3)
    counts = np.histogram2d(*free.T, bins=4, range=[(0, 1), (0, 1)])[0]
    assert abs(counts - 250).max() < 5 * 250**0.5
    wells = seen.points[seen.field == 0]
    assert len(np.unique(wells, axis=0)) == 256  # each grid point once
    assert np.isin(wells, (np.arange(16) + 0.5) / 16).all()
    np.testing.assert_allclose(
        seen.value[seen.field == 0], [truth[0, int(16 * y), int(16 * x)] for y, x in wells], atol=6 * seen.std[0]
    )


def test_a_ring_has_a_period_and_no_walls(prior: Prior, truth: np.ndarray) -> None:
    ring = on_ring(prior)
    np.testing.assert_allclose(box(ring), [(0.0, 1.0), (1 / 32, 1 + 1 / 32)], atol=1e-12)
    many = Sensors(sensors={"pressure": 2000})
    x = from_recipe(many, ring, truth, 24, 0).points[:, 1]
    assert 1 / 32 <= x.min() < 1 / 32 + 5e-3
    assert 1 + 1 / 32 - 5e-3 < x.max() <= 1 + 1 / 32
    field = torch.from_numpy(truth)[None].double()
    there, around = (np.array([[0.4, 0.3 + shift]]) for shift in (0.0, 1.0))
    read = [float(sensors_at(ring, np.array([1]), points)(field)) for points in (there, around)]
    assert read[0] == pytest.approx(read[1], rel=1e-12)
    with pytest.raises(DataError, match="outside the domain"):
        sensors_at(prior, np.array([1]), around)
    seam = float(sensors_at(ring, np.array([1]), np.array([[(4 + 0.5) / 16, 1.0]]))(field))
    assert seam == pytest.approx((truth[1, 4, 15] + truth[1, 4, 0]) / 2, rel=1e-6)


def test_the_observation_is_of_the_normalised_field(prior: Prior, truth: np.ndarray) -> None:
    seen = from_recipe(RECIPE, prior, truth, 24, 0)
    z = ((torch.from_numpy(truth) - prior.offset) / prior.scale)[None].double()
    clean = seen.predict(prior, torch.from_numpy(truth)[None].double())
    torch.testing.assert_close(seen.observation(prior).operator(z), clean, rtol=1e-5, atol=1e-7)


def test_a_recipe_that_does_not_fit(prior: Prior, truth: np.ndarray) -> None:
    with pytest.raises(DataError, match="names 'presure'; the prior has permeability, pressure") as caught:
        from_recipe(Sensors(sensors={"presure": 3}), prior, truth, 0, 0)
    assert caught.value.hint == "did you mean 'pressure'?"
    with pytest.raises(DataError, match="pressure=257 is more than the 256 grid points"):
        from_recipe(Sensors(sensors={"pressure": 257}, on_grid=["pressure"]), prior, truth, 0, 0)


FIRST = "field,y,x,value,std\n"
WRONG = {
    "unknown field": (FIRST + "presure,0.5,0.5,0.05,0.01\n", "has field 'presure'; the prior has", "'pressure'?"),
    "other coordinates": ("field,lat,x,value,std\npressure,0.5,0.5,0.05,0.01\n", r"has coordinates \(lat, x\)", None),
    "a coordinate too many": ("field,time,y,x,value,std\npressure,0,0.5,0.5,0.05,0.01\n", r"\(time, y, x\)", None),
    "a coordinate too few": ("field,x,value,std\npressure,0.5,0.05,0.01\n", r"has coordinates \(x\)", None),
    "unit of a field": ("field,y,x,value [Pa],std\npressure,0.5,0.5,0.05,0.01\n", "gives pressure in 'Pa'", None),
    "unit of a coordinate": ("field,y [km],x,value,std\npressure,0.5,0.5,0.05,0.01\n", "gives y in 'km'", None),
    "outside": (
        FIRST + "pressure,0.5,0.5,0.05,0.01\npressure,0.5,1.2,0.05,0.01\n",
        r"line 3: x=1.2 is outside the domain \[0, 1\]",
        None,
    ),
    "negative": (FIRST + "pressure,-0.01,0.5,0.05,0.01\n", "line 2: y=-0.01 is outside", None),
    "other units": (FIRST + "pressure,0.5,0.5,50,0.01\n", "line 2: pressure=50 is more than 20 std", "units"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(name: str, prior: Prior, tmp_path: Path) -> None:
    text, words, hint = WRONG[name]
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        from_table(read_observations(file), prior, str(file))
    assert hint is None or hint in str(caught.value.hint)


def test_a_good_file_is_taken_as_it_is(prior: Prior, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    rows = ["7,permeability,0.5,0.25,12,0.1", "2,pressure,0,1,0.05,0.01", "7,pressure,1,0.5,0.04,0.02"]
    file.write_text("\n".join(["case,field,y [1],x [],value [1],std", *rows]) + "\n")
    two, seven = from_table(read_observations(file), prior, str(file))
    assert (two.sample, seven.sample) == (-1, -1)
    np.testing.assert_array_equal(two.field, [1])
    np.testing.assert_array_equal(two.points, [[0.0, 1.0]])
    np.testing.assert_array_equal(seven.field, [0, 1])
    np.testing.assert_array_equal(seven.points, [[0.5, 0.25], [1.0, 0.5]])
    np.testing.assert_array_equal(seven.value, [12.0, 0.04])
    np.testing.assert_array_equal(seven.std, [0.1, 0.02])


def test_on_a_ring_a_position_may_be_counted_from_another_origin(prior: Prior, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(FIRST + "pressure,0.5,1.3,0.05,0.01\n")
    (seen,) = from_table(read_observations(file), on_ring(prior), str(file))
    assert seen.points[0, 1] == 1.3
    for row, words in (("1.3,0.5", "y=1.3 is outside"), ("0.5,7.3", "x=7.3 is outside")):
        file.write_text(f"{FIRST}pressure,{row},0.05,0.01\n")
        with pytest.raises(DataError, match=words):
            from_table(read_observations(file), on_ring(prior), str(file))


def test_an_identity_names_the_bytes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(FIRST + "pressure,0.5,0.5,0.05,0.01\n")
    first = describe(str(file))
    (tmp_path / "other.csv").write_bytes(file.read_bytes())
    assert describe(str(tmp_path / "other.csv")) == first
    file.write_text(FIRST + "pressure,0.5,0.5,0.06,0.01\n")
    assert describe(str(file)) != first
    with pytest.raises(DataError, match="there is no such file"):
        describe(str(tmp_path / "none.csv"))
    described: Any = describe(RECIPE)
    assert described["sensors"] == {"pressure": 12, "permeability": 4}
    assert cast(dict[str, Any], described)["noise"] == 0.05

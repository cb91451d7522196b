"""The user's own readings: files of sensors, several cases, and no truth to score against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import stage_recipe as recipe
import xarray as xr

from pdediff import stages
from pdediff.errors import DataError
from pdediff.runtime import Runtime
from pdediff.store import open_store

NOTHING = cast(Runtime, None)  # a stage that only returns a finished result asks nothing of it
GROUPS = {"posterior", "sample_stats", "observed_data", "posterior_predictive", "constant_data"}


def opened(path: Path) -> Any:
    return open_store(path)


def _as_rows(path: Path) -> list[tuple[int, str, float, float, float, float]]:
    """Readings of a reconstruction as rows: case, field, y, x, value, std."""
    seen, fields = opened(path)["observed_data"].dataset, ("permeability", "pressure")
    return [
        (case, fields[int(field)], *position.tolist(), float(value), float(std))
        for case in range(2)
        for field, position, value, std in zip(
            *(seen[name].values[case] for name in ("field", "position", "value", "std")), strict=True
        )
    ]


def _csv(file: Path, rows: list[tuple[int, str, float, float, float, float]], header: str = "case,field,y,x") -> Path:
    lines = [f"{header},value,std", *(",".join(map(repr, row)).replace("'", "") for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def _own(posterior: str, file: Path) -> Any:
    words = [w for w in recipe.reconstruct_words(posterior) if not w.startswith("observations")]
    return recipe.config("reconstruct", *words, f"observations='{file}'")


def test_the_readings_of_a_user_give_the_same_draws(world: recipe.World, tmp_path: Path) -> None:
    """The readings that a recipe drew, handed in as a file by a user: bit for bit the same draws, case by case."""
    rows = _as_rows(world.recon["calibrated"])
    table = _csv(tmp_path / "mine.csv", rows, "case,field,y [1],x [1]")
    path = stages.reconstruct(_own("calibrated", table), world.prior, None, tmp_path, recipe.INLINE)
    theirs, ours = opened(world.recon["calibrated"]), opened(path)
    for field in ("permeability", "pressure"):
        np.testing.assert_array_equal(ours[f"posterior/{field}"], theirs[f"posterior/{field}"])
    assert ours["constant_data/sample"].values.tolist() == [-1, -1]
    assert (path / "observations.csv").read_bytes() == table.read_bytes()
    before = recipe.snapshot(path)
    assert stages.reconstruct(_own("calibrated", table), world.prior, None, tmp_path, NOTHING) == path
    assert recipe.snapshot(path) == before


@pytest.mark.parametrize("posterior", ["calibrated", "kriging"])
def test_without_truth_nothing_is_scored(posterior: str, world: recipe.World, tmp_path: Path) -> None:
    table = _csv(tmp_path / "mine.csv", _as_rows(world.recon["calibrated"]))
    data = world.data if posterior == "kriging" else None
    path = stages.reconstruct(_own(posterior, table), world.prior, data, tmp_path, recipe.INLINE)
    with pytest.raises(DataError, match="holds no truth"):
        stages.evaluate(recipe.config("evaluate"), [path], tmp_path, recipe.INLINE)
    assert not (tmp_path / "reports").exists()


def test_cases_of_a_file_may_have_different_sensors(world: recipe.World, tmp_path: Path) -> None:
    rows = [row for k, row in enumerate(_as_rows(world.recon["calibrated"])) if row[0] == 0 or k % 2]
    table = _csv(tmp_path / "mine.csv", rows)
    path = stages.reconstruct(_own("calibrated", table), world.prior, None, tmp_path, recipe.INLINE)
    seen = opened(path)["observed_data"].dataset
    assert np.isfinite(seen["value"].values).sum(1).tolist() == [16, 8]
    assert (seen["field"].values[1, 8:] == -1).all()
    theirs, ours = (opened(p)["posterior/pressure"].values for p in (world.recon["calibrated"], path))
    np.testing.assert_array_equal(ours[0], theirs[0])  # a case does not depend on its neighbours
    assert not np.array_equal(ours[1], theirs[1])


def test_netcdf_gives_what_the_same_csv_gives(world: recipe.World, tmp_path: Path) -> None:
    rows = [row for row in _as_rows(world.recon["calibrated"]) if row[1] == "pressure"]
    _, _, y, x, value, std = zip(*rows, strict=True)
    point = {"y": ("point", list(y)), "x": ("point", list(x)), "case": ("point", [float(row[0]) for row in rows])}
    arrays = {"pressure": ("point", list(value)), "pressure_std": ("point", list(std))}
    xr.Dataset(arrays, coords=point).to_netcdf(tmp_path / "mine.nc")
    files = [tmp_path / "mine.nc", _csv(tmp_path / "mine.csv", rows)]
    paths = [stages.reconstruct(_own("dps", f), world.prior, None, tmp_path, recipe.INLINE) for f in files]
    assert (paths[0] / "observations.nc").exists()
    first, second = (opened(p)["posterior/pressure"].values for p in paths)
    np.testing.assert_array_equal(first, second)
    assert first.shape[0] == 2

"""Measurements of a user: what is read, and one clear line for each thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pdediff.errors import DataError
from pdediff.store import read_observations

GOOD = "x [m],y [m],field,value [Pa],std\n0.1,0.5,pressure,1.5,0.01\n0.9,0.5,pressure,-2e-1,0.02\n"


def _csv(folder: Path, text: str) -> Path:
    (folder / "obs.csv").write_text(text, encoding="utf-8")
    return folder / "obs.csv"


def test_csv(tmp_path: Path) -> None:
    table = read_observations(_csv(tmp_path, "\ufeff" + GOOD + "\n"))
    assert len(table) == 2
    assert table.coordinates == ("x", "y")
    assert table.fields == ("pressure",)
    assert table.units == {"x": "m", "y": "m", "pressure": "Pa"}
    assert {k: v.tolist() for k, v in table.columns.items()} == {
        "x": [0.1, 0.9],
        "y": [0.5, 0.5],
        "value": [1.5, -0.2],
        "std": [0.01, 0.02],
        "field": ["pressure", "pressure"],
        "case": [0, 0],
    }


def test_the_same_point_in_two_cases_and_two_fields(tmp_path: Path) -> None:
    text = "case,time,x,field,value,std\n0,1,2,u,3,1\n1,1,2,u,3,1\n1,1,2,v,3,1\n"
    table = read_observations(_csv(tmp_path, text))
    assert table.columns["case"].tolist() == [0, 1, 1]
    assert table.columns["case"].dtype == np.int64
    assert table.coordinates == ("time", "x")


BAD_CSV = {
    "empty file": ("", "is empty"),
    "no rows": ("x,field,value,std\n", "has no measurements"),
    "no std": ("x,field,value\n1,u,2\n", "lacks the column std"),
    "renamed": ("x,fields,val,std\n1,u,2,1\n", "lacks the column field, value; it has x, fields, val, std"),
    "no coordinate": ("field,value,std\nu,2,1\n", "has no coordinate column"),
    "repeated column": ("x,x,field,value,std\n1,1,u,2,1\n", "empty or repeated"),
    "unnamed column": (",field,value,std\n1,u,2,1\n", "empty or repeated"),
    "nan": (GOOD.replace("1.5", "nan"), "line 2: value is NaN"),
    "inf": (GOOD.replace("-2e-1", "-inf"), "line 3: value is infinite"),
    "overflow": (GOOD.replace("-2e-1", "1e999"), "line 3: value is infinite"),
    "nan place": (GOOD.replace("0.9", "NaN"), "line 3: x is NaN"),
    "text": (GOOD.replace("1.5", "high"), "line 2: value 'high' is not a number"),
    "unit in cell": (GOOD.replace("1.5", "1.5 Pa"), "line 2: value '1.5 Pa' is not a number"),
    "underscore": (GOOD.replace("1.5", "1_5"), "line 2: value '1_5' is not a number"),
    "decimal comma": (GOOD.replace("1.5", '"1,5"'), "line 2: value '1,5' is not a number"),
    "blank": (GOOD.replace("1.5", ""), "line 2: value is empty"),
    "zero std": (GOOD.replace("0.01", "0"), "line 2: std is 0, expected a positive number"),
    "negative std": (GOOD.replace("0.02", "-0.02"), "line 3: std is -0.02"),
    "duplicate": (GOOD + "0.1,0.50,pressure,9,1\n", "line 4: the same point as line 2"),
    "short row": (GOOD + "0.1,0.7\n", "line 4: 2 cells, expected 5"),
    "no field": (GOOD.replace("pressure,1.5", ",1.5"), "line 2: field is empty"),
    "bad case": ("case,x,field,value,std\n0.5,1,u,1,1\n", "line 2: case is 0.5"),
    "negative case": ("case,x,field,value,std\n-1,1,u,1,1\n", "line 2: case is -1"),
    "quotes": ('x,field,value,std\n"1,u,2,1\n', "not a readable CSV"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv(tmp_path: Path, name: str) -> None:
    text, words = BAD_CSV[name]
    with pytest.raises(DataError) as caught:
        read_observations(_csv(tmp_path, text))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"x,field,value,std\n1,\xe9,1,1\n")
    (tmp_path / "fake.nc").write_bytes(b"not netcdf")
    (tmp_path / "fake.zarr").mkdir()
    (tmp_path / "obs.txt").write_text(GOOD)
    for name, words in {
        "missing.csv": "does not exist",
        "latin.csv": "not a readable CSV",
        "fake.nc": "cannot be opened",
        "fake.zarr": "cannot be opened",
        "obs.txt": r"is not a \.csv, \.nc or \.zarr",
    }.items():
        with pytest.raises(DataError, match=words):
            read_observations(tmp_path / name)


def _points() -> xr.Dataset:
    place = {"x": ("obs", [0.1, 0.9], {"units": "km"}), "case": ("obs", [0, 3])}
    value = xr.Variable("obs", np.array([1.5, 2.5], "float32"), {"units": "Pa"})
    return xr.Dataset({"pressure": value, "pressure_std": ("obs", [0.1, 0.2])}, coords=place)


def _save(data: xr.Dataset, path: Path) -> Path:
    if path.suffix == ".nc":
        data.to_netcdf(path)
    else:
        data.to_zarr(path, zarr_format=3, consolidated=False)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_points(tmp_path: Path, suffix: str) -> None:
    table = read_observations(_save(_points(), tmp_path / f"obs{suffix}"))
    assert table.units == {"x": "km", "pressure": "Pa"}  # kept as they are: the caller compares
    assert table.coordinates == ("x",)
    assert table.columns["x"].tolist() == [0.1, 0.9]
    assert table.columns["value"].tolist() == [1.5, 2.5]
    assert table.columns["case"].tolist() == [0, 3]
    assert table.columns["field"].tolist() == ["pressure", "pressure"]


def test_grid(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    data = xr.Dataset({"u": (("y", "x"), values), "u_std": ((), 0.5)}, coords={"y": [0.0, 1.0], "x": [0.0, 2.0, 4.0]})
    table = read_observations(_save(data, tmp_path / "grid.nc"))
    assert table.columns["value"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table.columns["x"].tolist() == [0, 2, 4, 0, 2, 4]
    assert table.columns["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert set(table.columns["std"]) == {0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.drop_vars("pressure_std"), "no variable has a companion"),
        (lambda d: d.drop_vars("x").drop_vars("case"), "dim obs of pressure has no coordinate"),
        (lambda d: d.drop_vars("x"), "pressure has no coordinates"),
        (lambda d: d.isel(obs=slice(0, 0)), "has no measurements"),
        (lambda d: d.where(d.x < 0.5), "pressure point 1: value is NaN"),
        (lambda d: d.assign(pressure_std=d.pressure_std * 0), "pressure point 0: std is 0"),
        (lambda d: d.assign(pressure=("obs", ["a", "b"])), "not real numbers"),
        (lambda d: d.assign_coords(x=("obs", [0.5, 0.5]), case=("obs", [1, 1])), "the same point as pressure point 0"),
        (lambda d: d.assign(pressure_std=("other", [1.0])), "pressure_std has"),
        (lambda d: d.rename(obs="station").assign(t=("x2", [1.0]), t_std=("x2", [1.0])), "dim x2 of t has no coord"),
    ],
)
def test_bad_netcdf(tmp_path: Path, change: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_observations(_save(change(_points()), tmp_path / "obs.nc"))
    assert words in caught.value.message


def test_zarr_of_strangers_is_checked_first(tmp_path: Path) -> None:
    path = _save(_points(), tmp_path / "obs.zarr")
    meta = path / "pressure" / "zarr.json"
    meta.write_text(meta.read_text().replace('"float32"', '"object"'))
    with pytest.raises(DataError, match="is not a plain number"):
        read_observations(path)

"""Files of The Well and of PDEBench, out and in: values, names, axes, flags; and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pdediff.cli import run
from pdediff.errors import ConfigError, DataError, RejectedError
from pdediff.progress import SilentProgress
from pdediff.stages import exchange
from pdediff.store import ArraySpec, Schema, Writer, create, open_store, write_shard

SIZE, FRAMES, NY, NX = 5, 3, 4, 6


def _set(root: Path, arrays: dict[str, tuple[tuple[str, ...], str]], rejected: int | None = None) -> Path:
    """A finished set of random numbers, unequal sides, sample 1 in the test split."""
    sizes = {"time": FRAMES, "y": NY, "x": NX}
    rng = np.random.default_rng(0)
    data = {n: rng.normal(size=(SIZE, *(sizes[d] for d in dims))).astype("float32") for n, (dims, _) in arrays.items()}
    specs = [
        ArraySpec(n, ("sample", *dims), "float32", data[n].shape[1:], {"units": "m", "long_name": n, "role": role})
        for n, (dims, role) in arrays.items()
    ]
    used = {d for dims, _ in arrays.values() for d in dims}
    coords = {d: (np.linspace(0.0, 1.0, sizes[d]), {"units": "1"}) for d in sizes if d in used}
    path = root / "sets" / "made-0123456789ab"
    told = {"pde": "made", "boundary": "periodic", "formula": "", "symmetries": "none"}
    schema = Schema("sample", SIZE, (*specs, ArraySpec("split", ("sample",), "int8")), coords, told, SIZE, 1)
    create(path, schema, {"config": {"pde": {"kind": "Made", "viscosity": 0.25, "on": True}}})
    data["split"] = np.array([0, 2, 0, 0, 2], dtype="int8")
    with Writer(path) as writer:
        out = {} if rejected is None else {rejected: "for the test"}
        writer.accept(write_shard(path, 0, data, range(SIZE), out, "0", 0.0))
        writer.finish({})
    return path


FLOW = {
    "velocity_x": (("time", "y", "x"), "output"),
    "velocity_y": (("time", "y", "x"), "output"),
    "density": (("time", "y", "x"), "output"),
    "speed": (("y", "x"), "input"),
    "viscosity": ((), "input"),
    "inflow": (("time",), "input"),
}
STEADY = {"permeability": (("y", "x"), "input"), "pressure": (("y", "x"), "output")}
MOVING = {"initial": (("y", "x"), "input"), "u": (("time", "y", "x"), "output"), "length": ((), "input")}
SHOCKS = dict.fromkeys(("density", "pressure", "velocity_x", "velocity_y"), (("time", "y", "x"), "output"))
REACTION = dict.fromkeys(("u", "v"), (("time", "y", "x"), "output"))


@pytest.mark.parametrize(
    ("layout", "arrays", "lost"),
    [
        ("well", FLOW, set()),
        ("well", STEADY, set()),
        ("well", MOVING, set()),
        ("pdebench", STEADY, set()),
        ("pdebench", MOVING, {"initial"}),
        ("pdebench", SHOCKS, set()),
        ("pdebench", REACTION, set()),
    ],
    ids=["well-flow", "well-steady", "well-moving", "steady", "moving", "shocks", "groups"],
)
def test_a_set_comes_back_as_it_was(layout: str, arrays: dict, lost: set[str], tmp_path: Path) -> None:
    first = _set(tmp_path, arrays, rejected=3)
    file = exchange.export(first, tmp_path / "out.hdf5", layout)
    config = exchange.settings(None, None, [], 0.0)
    second = exchange.import_file(config, file, tmp_path, SilentProgress())
    before, after = open_store(first), open_store(second)
    assert set(after.data_vars) == set(before.data_vars) - lost
    for name in set(arrays) - lost:
        assert after[name].dims == before[name].dims
        np.testing.assert_array_equal(after[name].values, before[name].values[[0, 1, 2, 4]])
        for key in ("units", "long_name", "role"):
            assert after[name].attrs[key] == before[name].attrs[key], (name, key)
        for dim in before[name].dims[1:]:
            np.testing.assert_allclose(after[dim], before[dim], rtol=1e-6)
    assert after.attrs["boundary"] == "periodic"
    assert exchange.import_file(config, file, tmp_path, SilentProgress()) == second


def test_axes_of_a_file_run_from_x_to_z(tmp_path: Path) -> None:
    path = _set(tmp_path, FLOW)
    stored = open_store(path)
    with h5py.File(exchange.export(path, tmp_path / "a.hdf5", "well")) as file:
        assert file["t0_fields/density"].shape == (SIZE, FRAMES, NX, NY)
        assert file["t1_fields/velocity"].shape == (SIZE, FRAMES, NX, NY, 2)
        assert file["t1_fields/velocity"][1, 2, 5, 3, 0] == stored["velocity_x"].values[1, 2, 3, 5]
        assert file["t1_fields/velocity"][1, 2, 5, 3, 1] == stored["velocity_y"].values[1, 2, 3, 5]
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x", "y"]
        assert file["t0_fields/speed"].shape == (SIZE, NX, NY)
        assert not file["t0_fields/speed"].attrs["time_varying"]
        assert file["scalars/viscosity"].shape == (SIZE,)
        assert file["boundary_conditions/x_boundary"].attrs["bc_type"] == "periodic"
        assert file.attrs["viscosity"] == 0.25
        assert list(file.attrs["simulation_parameters"]) == ["viscosity"]
        assert file.attrs["n_trajectories"] == SIZE


def test_darcy_and_flow_have_the_names_of_pdebench(tmp_path: Path) -> None:
    path = _set(tmp_path / "1", STEADY)
    stored = open_store(path)
    with h5py.File(exchange.export(path, tmp_path / "b.hdf5", "pdebench", "test")) as file:
        assert file["tensor"].shape == (2, 1, NX, NY)
        assert file["nu"][1, 5, 3] == stored["permeability"].values[4, 3, 5]
        assert file["x-coordinate"].shape == (NX,)
    with h5py.File(exchange.export(_set(tmp_path / "2", SHOCKS), tmp_path / "c.hdf5", "pdebench")) as file:
        assert {"density", "pressure", "Vx", "Vy", "t-coordinate"} <= set(file)
    with h5py.File(exchange.export(_set(tmp_path / "3", REACTION), tmp_path / "d.hdf5", "pdebench")) as file:
        assert file["0002/data"].shape == (FRAMES, NX, NY, 2)


def _well(path: Path) -> None:
    """A file as The Well's documentation describes one: shared fields, a field that lacks a dim, a tensor."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.attrs.update({"grid_type": "cartesian", "n_trajectories": 2, "dataset_name": "outside", "Re": 3.0})
        file.attrs["simulation_parameters"] = ["Re"]
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x", "y"]
        for name, n in (("time", FRAMES), ("x", NX), ("y", NY)):
            dims.create_dataset(name, data=np.arange(n, dtype="float32")).attrs["sample_varying"] = False
        wall = file.create_group("boundary_conditions/Y_boundary")
        wall.attrs.update({"associated_dims": ["y"], "bc_type": "WALL"})
        fields = {
            "t0_fields/shared": ((FRAMES, NX, NY), False, True, (True, True)),
            "t0_fields/profile": ((2, FRAMES, NX), True, True, (True, False)),
            "t0_fields/static": ((2, NX, NY), True, False, (True, True)),
            "t2_fields/stress": ((2, FRAMES, NX, NY, 2, 2), True, True, (True, True)),
            "scalars/Re": ((), False, False, ()),
        }
        for name, (shape, own, moving, varying) in fields.items():
            data = file.create_dataset(name, data=rng.normal(size=shape).astype("float32"))
            data.attrs.update({"sample_varying": own, "time_varying": moving, "dim_varying": np.array(varying)})
        for group in ("t0_fields", "t2_fields", "scalars"):
            file[group].attrs["field_names"] = list(file[group])


def test_a_file_of_the_well(tmp_path: Path) -> None:
    file = tmp_path / "Outside set.hdf5"
    _well(file)
    path = exchange.import_file(exchange.settings(None, None, [], 0.0), file, tmp_path, SilentProgress())
    assert path.name.startswith("outside_set-")
    stored = open_store(path)
    with h5py.File(file) as there:
        assert stored["profile"].dims == ("sample", "time", "x")
        assert stored["static"].dims == ("sample", "y", "x")
        assert stored["static"].attrs["role"] == "input"
        assert stored["shared"].values[1, 2, 3, 5] == there["t0_fields/shared"][2, 5, 3]
        assert stored["stress_xy"].values[1, 2, 3, 5] == there["t2_fields/stress"][1, 2, 5, 3, 0, 1]
        assert stored["re"].values[1] == there["scalars/Re"][()]
    assert stored.attrs["boundary"] == "y: wall"
    assert stored.attrs["pde"] == "outside"


def _pdebench(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["tensor"] = values
        file["x-coordinate"] = np.arange(values.shape[-1], dtype="float32")
        file["t-coordinate"] = np.arange(values.shape[1] + 1, dtype="float32")  # as published: one time too many
        file.attrs["Nu"] = 0.01


def test_a_file_of_pdebench_is_checked(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(8, 5, 16)).astype("float32")
    values[2, 1, 3] = np.nan
    values[6, 4] = 0.5
    _pdebench(tmp_path / "burgers.hdf5", values)
    config = exchange.settings("mine", None, ["tensor=u"], 0.3)
    stored = open_store(exchange.import_file(config, tmp_path / "burgers.hdf5", tmp_path, SilentProgress()))
    assert np.flatnonzero(stored["status"].values).tolist() == [2, 6]
    assert stored.sizes["time"] == 5
    np.testing.assert_array_equal(stored["u"].values[[0, 7]], values[[0, 7]])
    strict = exchange.settings("mine", None, ["tensor=u"], 0.1)
    with pytest.raises(RejectedError, match=r"2 of 8 samples .* sample 2: u is not finite"):
        exchange.import_file(strict, tmp_path / "burgers.hdf5", tmp_path, SilentProgress())


def test_an_equation_gives_names_and_bounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with h5py.File(tmp_path / "darcy.hdf5", "w") as file:
        file["nu"] = np.where(rng.normal(size=(4, 8, 8)) > 0, 12.0, 3.0)
        file["tensor"] = 0.01 * rng.uniform(0.1, 1.0, size=(4, 1, 8, 8))
        file["tensor"][3] = 0.5  # beyond what any permeability of 3 or more allows
        file["x-coordinate"] = file["y-coordinate"] = (np.arange(8) + 0.5) / 8
    words = ["--pde", "darcy", "--rename", "nu=permeability", "--rename", "tensor=pressure", "--max-rejected", "0.5"]
    command = ["import", str(tmp_path / "darcy.hdf5"), *words, "--data-root", str(tmp_path), "--quiet"]
    assert run(command) == 0
    (path,) = (tmp_path / "sets").iterdir()
    stored = open_store(path)
    assert stored["status"].values.tolist() == [0, 0, 0, 1]
    assert stored.attrs["symmetries"] == "square"
    assert stored["pressure"].dims == ("sample", "y", "x")


def test_what_cannot_be_exported_or_imported_is_said(tmp_path: Path) -> None:
    path = _set(tmp_path, REACTION | {"obstacle": (("y", "x"), "input")})
    with pytest.raises(DataError, match="no place for the static field obstacle"):
        exchange.export(path, tmp_path / "e.hdf5", "pdebench")
    assert not list(tmp_path.glob("e.hdf5*"))
    with pytest.raises(ConfigError, match="split='trian' is not one of train, valid, test"):
        exchange.export(path, tmp_path / "e.hdf5", "well", "trian")
    exchange.export(path, tmp_path / "e.hdf5", "well")
    with pytest.raises(ConfigError, match="exists already"):
        exchange.export(path, tmp_path / "e.hdf5", "well")
    config = exchange.settings(None, None, [], 0.0)
    (tmp_path / "no.hdf5").write_text("no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        exchange.import_file(config, tmp_path / "no.hdf5", tmp_path, SilentProgress())
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["a"] = 1.0
    with pytest.raises(DataError, match="holds a: neither"):
        exchange.import_file(config, tmp_path / "other.hdf5", tmp_path, SilentProgress())
    _pdebench(tmp_path / "f.hdf5", np.ones((2, 3, 4), dtype="float32"))
    with pytest.raises(DataError, match="rename names 'u'; the file has tensor"):
        exchange.import_file(
            exchange.settings(None, None, ["u=v"], 0.0), tmp_path / "f.hdf5", tmp_path, SilentProgress()
        )
    assert not [p for p in (tmp_path / "sets").iterdir() if not p.name.startswith("made")]

"""One damaged byte, a short or a lost file: found and named by verify, mended by repair to the old content hash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stage_recipe as recipe
import xarray as xr

from pdediff import cli, stages
from pdediff.errors import IntegrityError
from pdediff.stages import generation_tile
from pdediff.stages.priors import load_prior
from pdediff.store import SetReader

pytestmark = pytest.mark.fault


def flip(file: Path) -> None:
    """One bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    """The second half is lost."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


HARM: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "missing": Path.unlink}


class Shell:
    """The command line in this process on one data root."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys

    def __call__(self, *words: str) -> tuple[int, list[str], list[str]]:
        """Exit code, lines on stdout and on stderr."""
        self._capsys.readouterr()
        code = cli.run([*words, "--data-root", str(self.root)])
        shown = self._capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()


@pytest.fixture
def shell(copy: recipe.World, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(copy.root, capsys)


def mended(shell: Shell, path: Path, content: str, before: dict[str, tuple[int, str]], shards: list[int]) -> None:
    """`repair` computes exactly these shards; every file is what it was, but for times and new receipts."""
    code, out, err = shell("repair", path.name)
    assert (code, err) == (0, [])
    assert out == [f"path: {path}, repaired: {shards}"]
    assert recipe.content(path) == content
    assert shell("verify", path.name) == (0, [f"path: {path}, damages: 0"], [])
    changed = {name for name, (_, sha256) in recipe.snapshot(path).items() if before.get(name, ("", ""))[1] != sha256}
    assert changed <= {"receipts.jsonl", "manifest.json", ".lock"}
    assert recipe.is_free(path)
    assert not recipe.leftovers(path)


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_shard_of_a_data_set(harm: str, copy: recipe.World, shell: Shell) -> None:
    content, before = recipe.content(copy.data), recipe.snapshot(copy.data)
    HARM[harm](copy.data / "data.zarr" / "pressure" / "c" / "1" / "0" / "0")
    code, _, err = shell("verify", copy.data.name)
    assert code == 5
    assert len(err) == 2
    assert err[0].startswith("error[integrity]: sample ")
    assert int(err[0].split()[2]) in range(8, 16)
    assert " of pressure is damaged (" in err[0]
    assert err[1] == f"  hint: `pdediff repair {copy.data.name}` computes the damaged parts again"
    code, _, err = shell("train", "compute=inline", *recipe.TRAIN, "seed=9", f"data={copy.data.name}", "-q")
    assert (code, err[0].startswith("error[integrity]: ")) == (5, True)
    mended(shell, copy.data, content, before, [1])


@pytest.mark.parametrize("name", ["calibrated", "smc", "kriging"])
@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_case_of_a_reconstruction(harm: str, name: str, copy: recipe.World, shell: Shell) -> None:
    path = copy.recon[name]
    content, before = recipe.content(path), recipe.snapshot(path)
    HARM[harm](path / "data.zarr" / "posterior" / "permeability" / "c" / "1" / "0" / "0" / "0")
    code, _, err = shell("verify", path.name)
    assert code == 5
    assert err[0].startswith("error[integrity]: sample 1 of posterior/permeability is damaged (")
    code, _, err = shell("evaluate", path.name, "name=other", "-q")
    assert (code, err[0].startswith("error[integrity]: ")) == (5, True)
    assert not list((copy.root / "reports").glob("other-*"))
    mended(shell, path, content, before, [1])


def test_damaged_samples_of_a_prior(copy: recipe.World, shell: Shell) -> None:
    drawn = recipe.config("sample", "n=10", "steps=4", "tile=4")
    path = stages.sample(drawn, copy.prior, copy.root, recipe.INLINE)
    content, before = recipe.content(path), recipe.snapshot(path)
    flip(path / "data.zarr" / "pressure" / "c" / "2" / "0" / "0")
    assert shell("verify", path.name)[0] == 5
    mended(shell, path, content, before, [2])


@pytest.mark.parametrize("lost", ["config.json", "manifest.json"])
@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_description_beside_a_damaged_shard(lost: str, harm: str, copy: recipe.World, shell: Shell) -> None:
    """Manifest and config vouch for each other, so either may be lost together with data."""
    path = copy.recon["dps"]
    content, before = recipe.content(path), recipe.snapshot(path)
    HARM[harm](path / lost)
    flip(path / "data.zarr" / "posterior" / "pressure" / "c" / "0" / "0" / "0" / "0")
    code, _, err = shell("verify", path.name)
    assert (code, len(err)) == (5, 2)
    mended(shell, path, content, before, [0])


def test_readings_of_a_user_are_kept_for_repair(copy: recipe.World, shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("field,y,x,value,std\npressure,0.5,0.5,0.05,0.01\npermeability,0.2,0.3,12,0.1\n")
    words = [w for w in recipe.reconstruct_words("calibrated") if not w.startswith("observations")]
    words += [f"observations={table}", f"prior={copy.prior.name}", "name=mine"]
    code, out, _ = shell("reconstruct", "compute=inline", *words, "-q")
    path = Path(out[-1])
    assert code == 0
    table.unlink()
    content, before = recipe.content(path), recipe.snapshot(path)
    flip(path / "data.zarr" / "posterior" / "pressure" / "c" / "0" / "0" / "0" / "0")
    mended(shell, path, content, before, [0])


def test_repair_needs_what_the_result_was_made_from(copy: recipe.World, shell: Shell) -> None:
    path = copy.recon["dps"]
    assert shell("repair", path.name)[0] == 0
    flip(path / "data.zarr" / "posterior" / "pressure" / "c" / "0" / "0" / "0" / "0")
    copy.prior.rename(copy.root / "gone")
    code, _, err = shell("repair", path.name)
    assert code == 2
    assert f"prior='{copy.prior.name}' is neither" in err[0]
    assert recipe.is_free(path)


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        ("checkpoints/final-00000012/tensors.safetensors", "flip", "checkpoint final-00000012 of "),
        ("checkpoints/final-00000012/tensors.safetensors", "cut", "checkpoint final-00000012 of "),
        ("checkpoints/final-00000012/meta.json", "flip", "checkpoint final-00000012 of "),
        ("checkpoints/final-00000012/meta.json", "missing", "checkpoint final-00000012 of "),
        ("checkpoints/step-00000010/tensors.safetensors", "flip", "checkpoint step-00000010 of "),
        ("checkpoints/final-00000012", "folder", "the final checkpoint of "),
        ("manifest.json", "flip", "manifest.json is damaged"),
    ],
)
def test_a_damaged_run_is_found_and_trained_to_the_same_weights(
    file: str, harm: str, words: str, copy: recipe.World, shell: Shell
) -> None:
    name, content = copy.prior.name, recipe.content(copy.prior)
    assert shell("verify", name) == (0, [f"path: {copy.prior}, damages: 0"], [])
    assert shell("repair", name) == (0, [f"path: {copy.prior}, repaired: []"], [])
    shutil.rmtree(copy.prior / file) if harm == "folder" else HARM[harm](copy.prior / file)
    before = recipe.snapshot(copy.prior)
    for command in ("verify", "repair"):
        code, _, err = shell(command, name)
        assert (code, len(err)) == (5, 2)
        assert err[0].startswith("error[integrity]: ")
        assert words in err[0]
        assert err[1] == "  hint: run the training again; it continues from the checkpoints that are left"
    assert recipe.snapshot(copy.prior) == before  # to look changes nothing
    again = ("train", "compute=inline", *recipe.TRAIN, f"data={copy.data.name}", "-q")
    assert shell(*again)[0] == 0
    assert recipe.content(copy.prior) == content
    assert shell("verify", name)[0] == 0
    load_prior(copy.prior)


def test_a_damaged_final_checkpoint_is_not_sampled(copy: recipe.World, shell: Shell) -> None:
    flip(copy.prior / "checkpoints/final-00000012/tensors.safetensors")
    code, _, err = shell("sample", "compute=inline", f"prior={copy.prior.name}", "n=2", "steps=4", "-q")
    assert code == 5
    assert "training again" in err[-1]
    assert not (copy.root / "samples").exists()


@pytest.mark.slow
def test_a_damaged_report_is_written_again(copy: recipe.World, shell: Shell) -> None:
    words = ("evaluate", copy.recon["kriging"].name, "name=one", "-q")
    path = Path(shell(*words)[1][-1]).parent
    for file, harm, line in (
        ("report.html", "flip", "report.html is damaged"),
        ("scores.json", "missing", "scores.json is damaged"),
        ("manifest.json", "cut", "manifest.json is damaged"),
        ("manifest.json", "missing", "is not complete"),
    ):
        assert shell("verify", path.name)[0] == 0
        HARM[harm](path / file)
        assert shell("verify", path.name)[2][0].endswith(line)
        code, _, err = shell("repair", path.name)
        assert (code, err[1]) == (5, "  hint: run evaluate again; it writes the report again")
        assert shell(*words)[0] == 0
    assert shell("verify", path.name)[0] == 0


def test_the_worst_comes_first_and_all_are_listed(copy: recipe.World, shell: Shell) -> None:
    flip(copy.data / "data.zarr" / "pressure" / "c" / "1" / "0" / "0")
    flip(copy.prior / "checkpoints/final-00000012/tensors.safetensors")
    code, out, err = shell("verify", copy.recon["dps"].name, copy.data.name, copy.prior.name, "--json")
    assert code == 5
    assert err[0].startswith("error[integrity]: sample ")
    assert "(and " in err[0]
    assert len([line for line in out if '"path"' in line]) == 3
    assert any("final-00000012" in line for line in out)


def test_what_cannot_be_mended_says_so(copy: recipe.World, shell: Shell) -> None:
    """Data that other code would make again: refused, and the store stays marked as damaged."""
    path = copy.data
    receipts = path / "receipts.jsonl"
    flip(path / "data.zarr" / "pressure" / "c" / "1" / "0" / "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation_tile, "solve", _other_solver(generation_tile.solve))
        code, _, err = shell("repair", path.name)
    assert code == 5
    assert "came out different" in err[0]
    assert shell("verify", path.name)[0] == 5
    assert len(receipts.read_bytes().splitlines()) == 32
    assert shell("repair", path.name)[0] == 0


def _other_solver(solve: Callable) -> Callable:
    def other(*arguments: object) -> object:
        fields, reasons = solve(*arguments)
        return {name: np.nextafter(values.astype("f4"), np.float32(9)) for name, values in fields.items()}, reasons

    return other


def test_a_mended_store_reads_as_before(copy: recipe.World, world: recipe.World, shell: Shell) -> None:
    flip(copy.data / "data.zarr" / "permeability" / "c" / "3" / "0" / "0")
    with pytest.raises(IntegrityError, match="of permeability is damaged"):
        SetReader(copy.data).array("permeability")
    assert shell("repair", copy.data.name)[0] == 0
    both = [xr.open_zarr(path / "data.zarr", consolidated=False) for path in (copy.data, world.data)]
    xr.testing.assert_identical(*both)

"""The wheel carries everything that an installation outside the repository needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pdediff", "flows", "configs")
DATA = (".yaml", ".html", ".css", ".jinja", ".typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, without network: setuptools leaves its build folders where the sources are."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, cwd=place)
    (built,) = place.glob("pdediff-*.whl")
    return built


def test_the_wheel_holds_every_module_config_and_template(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and (file.suffix == ".py" or file.suffix in DATA):
                prefix = "pdediff" if folder == "pdediff" else f"pdediff/{folder}"
                assert f"{prefix}/{file.relative_to(ROOT / folder)}" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests", "notebooks", "flows/", "configs/"))]
    (entry,) = [name for name in inside if name.endswith("entry_points.txt")]
    assert "pdediff = pdediff.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_the_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import pdediff.flows.compose as c; print(c.__file__); print(*c.groups()); print(c.compose('generate')['pde'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    where, groups, node = done.stdout.splitlines()
    assert where == str(tmp_path / "site/pdediff/flows/compose.py")
    assert {"pde", "sampler", "posterior", "network", "noise", "compute"} <= set(groups.split())
    assert "'kind': 'Darcy'" in node

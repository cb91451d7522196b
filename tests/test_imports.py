"""`import pdediff` and `--help` cost next to nothing; the heavy libraries are loaded by what needs them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = (
    "torch",
    "prefect",
    "neuralop",
    "matplotlib",
    "xarray",
    "zarr",
    "dask",
    "distributed",
    "hydra",
    "scipy",
    "pandas",
)
SLACK = 3.0
"""How much slower than on an idle machine a start may be while other tests run."""


def loaded_by(code: str) -> set[str]:
    """Heavy modules in a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def seconds(*command: str) -> float:
    """Best of three starts of a fresh interpreter."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    return min(times)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import pdediff", set()),
        ("import pdediff.cli", set()),
        ("from pdediff import cli; assert cli.run(['--help']) == 0", set()),
        ("from pdediff import cli; assert cli.run(['generate', '--help']) == 0", set()),
        ("import pdediff.config, pdediff.progress, pdediff.terminal, pdediff.locate, pdediff.launch", set()),
        ("import pdediff.stages, pdediff.store, pdediff.models", {"torch"}),
        ("import pdediff.metrics", {"torch", "scipy"}),
        ("from pdediff import cli; assert cli.run(['list']) == 0", {"hydra"}),
    ],
)
def test_nothing_heavy_is_loaded_early(code: str, allowed: set[str]) -> None:
    assert loaded_by(code) <= allowed


def test_import_takes_less_than_a_third_of_a_second() -> None:
    assert seconds("-c", "import pdediff") - seconds("-c", "pass") < 0.3 * SLACK


def test_help_takes_less_than_half_a_second() -> None:
    assert seconds("-c", "from pdediff.cli import main; main(['--help'])") < 0.5 * SLACK


def test_public_names_are_found_when_asked_for() -> None:
    import pdediff

    assert pdediff.build.__module__ == "pdediff.config"
    assert pdediff.samplers.__name__ == "pdediff.samplers"
    assert {"build", "stages", "Runtime"} <= set(dir(pdediff))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pdediff.nothing

"""Checks of an installation: versions, devices, disk, configs, Prefect, and a small run from end to end."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from pdediff.errors import ConfigError, PdediffError, ResourceError
from pdediff.wording import one_line

GIGABYTE = 1e9

Check = Callable[[Path], str]


def run(data_root: Path, tell: Callable[[dict[str, object]], None]) -> None:
    """Run every check and tell its outcome. Raises ResourceError when one failed."""
    failed = []
    for name, check in CHECKS.items():
        try:
            ok, detail = True, check(data_root)
        except Exception as error:
            ok, detail = False, error.message if isinstance(error, PdediffError) else one_line(error)
            failed.append(name)
        tell({"check": name, "ok": ok, "detail": detail})
    if failed:
        raise ResourceError(f"{len(failed)} of {len(CHECKS)} checks failed: {', '.join(failed)}")


def check_python(data_root: Path) -> str:
    """Which Python this is (pip refuses one that is too old)."""
    return sys.version.split()[0]


def check_versions(data_root: Path) -> str:
    """Every required package is installed within its bounds (some newer ones break Prefect silently)."""
    wrong = [f"{name} {found} (needs {wanted})" for name, found, wanted in _requirements() if found is not None]
    missing = [name for name, found, _ in _requirements() if found is None]
    if wrong or missing:
        raise ConfigError("; ".join(wrong + [f"{name} is missing" for name in missing]))
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "prefect", "dask", "zarr", "xarray"))


def check_devices(data_root: Path) -> str:
    """What torch can compute on."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"CPU, {torch.get_num_threads()} threads" + (f", {', '.join(gpus)}" if gpus else ", no GPU")


def check_disk(data_root: Path) -> str:
    """The data root, or the folder it would be made in, takes files and has room."""
    folder = data_root.resolve()
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
    free = shutil.disk_usage(folder).free / GIGABYTE
    if free < 1.0:
        raise ResourceError(f"{free:.1f} GB free in {folder}")
    return f"{free:.0f} GB free in {folder}"


def check_configs(data_root: Path) -> str:
    """Every ready-made config builds its object."""
    from pdediff.config import ROOMS, build
    from pdediff.flows import compose

    count = 0
    for group, options in compose.groups().items():
        for option in options if group in ROOMS else ():
            build(group, compose.node(group, option))
            count += 1
    return f"{count} build"


def check_prefect(data_root: Path) -> str:
    """Prefect's server can be imported: the first thing to break with other versions of its dependencies."""
    from pdediff.environment import set_environment

    set_environment()
    importlib.import_module("prefect.server.api.server")
    return f"{metadata.version('prefect')}, server imports"


def check_run(data_root: Path) -> str:
    """Eight solved problems are written and read back."""
    from pdediff import stages
    from pdediff.config import validate
    from pdediff.flows.compose import compose
    from pdediff.runtime import Runtime
    from pdediff.stages.configs import GenerateConfig
    from pdediff.store import verify

    composed = compose("generate", ["samples=8", "grid=16", "shard=8", "tile=8"])
    composed.pop("compute")
    with tempfile.TemporaryDirectory() as folder:
        made = stages.generate(validate(GenerateConfig, composed), Path(folder), Runtime("inline", 1, device="cpu"))
        damages = verify(made)
    if damages:
        raise ResourceError(damages[0].message)
    return "8 samples generated and verified"


CHECKS: dict[str, Check] = {
    "python": check_python,
    "versions": check_versions,
    "devices": check_devices,
    "disk": check_disk,
    "configs": check_configs,
    "prefect": check_prefect,
    "run": check_run,
}


def _requirements() -> Iterator[tuple[str, str | None, str]]:
    """(package, installed version or None, bounds) of each requirement that is not met."""
    from packaging.requirements import Requirement

    for text in metadata.requires("pdediff") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield requirement.name, None, str(requirement.specifier)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield requirement.name, found, str(requirement.specifier)

"""What a benchmark ran on: processor, cores, GPU and versions, for its record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("pdediff", "torch", "numpy", "scipy", "zarr")


def processor() -> str:
    """Name of the processor; its architecture where the system does not tell."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def hardware(device: str) -> dict[str, str | int | float]:
    """Processor, usable cores, load of the machine when the measurement began, and the GPU where one is used."""
    import torch

    found: dict[str, str | int | float] = {
        "processor": processor(),
        "cores": len(cores()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions(*peers: str) -> dict[str, str]:
    """Versions of Python, of what we measure, and of the packages of the peers."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *peers):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found

"""Samplers by the name of their preset: the config folder is the registry."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from typing import Any

import yaml

from pdediff.errors import ConfigError
from pdediff.samplers.plan import Sampler


def names() -> list[str]:
    """Names of all presets."""
    folder = files("pdediff.configs") / "sampler"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def named(name: str) -> Sampler:
    """The sampler of a preset, such as "unipc". `ConfigError` for a name that is none."""
    if name not in names():
        raise ConfigError(f"{name!r} is not one of {', '.join(names())}", hint="`pdediff list samplers` describes them")
    file = files("pdediff.configs") / "sampler" / f"{name}.yaml"
    node = _frozen(yaml.safe_load(file.read_text()))
    kind = node.pop("kind")
    return getattr(import_module("pdediff.samplers"), kind)(**node)


def _frozen(value: Any) -> Any:
    """Lists as tuples, at any depth: what a frozen dataclass holds."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def catalogue() -> list[dict[str, object]]:
    """Name, order, evaluations per step and source of each preset."""
    found = [(name, named(name)) for name in names()]
    return [
        {"name": name, "order": sampler.slope, "nfe": sampler.evaluations, "source": sampler.source}
        for name, sampler in found
    ]

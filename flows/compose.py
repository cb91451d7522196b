"""Plain dicts from the Hydra groups under `configs/` and the overrides of a command line; data only, never code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pdediff.errors import ConfigError, ConfigErrors
from pdediff.wording import nearest, one_line, show
from pdediff.wording import options as listed

CODE = re.compile(r"^_(target|partial|args|recursive|convert)_$")
"""Keys by which other tools run code named in a config."""

REFERENCE = re.compile(r"\$\{\.*[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d+\])*\}")
"""The only interpolation that is allowed: the value of another key."""

KEY = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*|\.\d+|\[\d+\])*$")


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of `command` with `overrides` such as `pde=darcy` (a group's option) or `pde.alpha=3` (a value).

    Group options are put in place first, values after them. Raises ConfigErrors with every bad override.
    """
    config, problems = read(command, overrides)
    if problems:
        raise ConfigErrors(problems)
    return config


def read(command: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[ConfigError]]:
    """As `compose`, but bad overrides are left out and returned, so that the rest can be checked as well."""
    config = _load(command)
    chosen, values, bad = [], [], []
    problems: list[ConfigError] = []
    for text in overrides:
        try:
            key, value = parse(text)
            option = _option(key, value)
        except ConfigError as problem:
            problems += problem.problems if isinstance(problem, ConfigErrors) else [problem]
            bad.append(text.lstrip("+").partition("=")[0])
        else:
            (values if option is None else chosen).append((key, value if option is None else option))
    with open_dict(config):
        for key, value in chosen + [(k, v) for k, v in values if not any(k.startswith(f"{b}.") for b in bad)]:
            try:
                OmegaConf.update(config, key, value, merge=not isinstance(value, Mapping), force_add=True)
            except (OmegaConfBaseException, TypeError, IndexError) as error:
                problems.append(ConfigError(f"cannot set {key}={show(value)}: {one_line(error)[:60]}"))
    return resolve(config), problems


def groups() -> dict[str, list[str]]:
    """Names of the ready-made options of every group: the registry of algorithms."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(_folder().iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def commands() -> list[str]:
    """Names of the root configs."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def node(group: str, option: str) -> dict[str, Any]:
    """One option of a group, as the node that builds its object. Raises ConfigError for an unknown one."""
    options = groups().get(group)
    if options is None:
        raise ConfigError(f"{show(group)} is not one of {', '.join(groups())}", hint=nearest(group, groups()))
    if option not in options:
        known = listed(option, options, group)
        raise ConfigError(f"{group}={show(option)} is not one of {known}", hint=nearest(option, options))
    return resolve(_load(f"{group}/{option}")[group])


def parse(override: str) -> tuple[str, Any]:
    """Key and value of one override, read by Hydra's grammar. Raises ConfigError."""
    if override.startswith("~"):
        raise ConfigError(f"{show(override)}: options cannot be deleted, only set", hint="write key=value")
    text = override.lstrip("+")
    if "=" not in text:
        raise ConfigError(f"{show(override)} is not an override", hint="write key=value")
    forbid_code(text.partition("=")[2], text.partition("=")[0])
    if not KEY.match(text.partition("=")[0]):
        raise ConfigError(f"{show(text.partition('=')[0])} is not the name of an option", hint="write key=value")
    try:
        read = OverridesParser.create().parse_override(text)
    except HydraException:
        raise ConfigError(f"cannot read {show(override)}", hint="quote special characters: key=\"'value'\"") from None
    if read.is_sweep_override():
        raise ConfigError(f"{show(override)} is a sweep, not one value", hint="a list is written key=[1,2]")
    value = read.value()
    forbid_code(value, read.key_or_group)
    return read.key_or_group, value


def resolve(config: Any) -> dict[str, Any]:
    """A composed config as plain data, references filled in. Raises ConfigErrors where it asks for more than data."""
    forbid_code(OmegaConf.to_container(config, resolve=False), "")
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot resolve the config: {one_line(error)[:100]}") from None


def forbid_code(value: Any, where: str) -> None:
    """Raise ConfigErrors for keys that name code and for `${...}` other than `${key}`, anywhere in `value`."""
    problems = []
    for path, leaf in _leaves(value, where):
        last = path.rpartition(".")[2]
        if CODE.match(last):
            problems.append(ConfigError(f"{path}: a config cannot name code to run", hint="name a `kind:`"))
        if isinstance(leaf, str) and "${" in REFERENCE.sub("", leaf):
            problems.append(ConfigError(f"{path}={show(leaf)}: only references like ${{seed}} are allowed"))
    if problems:
        raise ConfigErrors(list({p.message: p for p in problems}.values()))


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if not value:
            yield where, None
        for key, part in value.items():
            path = f"{where}.{key}" if where else str(key)
            yield path, str(key)
            yield from _leaves(part, path)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, where)
    else:
        yield where, value


def _option(key: str, value: Any) -> dict[str, Any] | None:
    """The node that `key=value` stands for, or None where it sets a plain value."""
    group = key.rpartition(".")[2]
    if group not in groups() or not isinstance(value, str) or "${" in value:
        return None
    return node(group, value)


@cache
def _folder() -> Path:
    with as_file(files("pdediff.configs")) as folder:
        return folder


def _load(name: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(_folder()), version_base="1.3"):
        try:
            return hydra_compose(name)
        except (HydraException, OmegaConfBaseException) as error:
            reason = one_line(error).partition(" Config search path")[0]
            raise ConfigError(f"config {name}: {reason}") from None

"""Objects from configs: a config names a public class of a room and its arguments, and is data, never code.

A node is `{kind: ClassName, argument: value, ...}`. The kind is looked up in the room's `__all__` only, the arguments
are validated against the class's own type hints, and every problem of a config is reported at once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

from pdediff.errors import ConfigError, ConfigErrors
from pdediff.wording import Unfit, join, nearest, one_line, options, problems_of, show

Model = TypeVar("Model", bound=BaseModel)

ROOMS: dict[str, str] = {
    "pde": "pdediff.pdes",
    "network": "pdediff.models",
    "forecaster": "pdediff.models.forecasters",
    "noise": "pdediff.diffusion",
    "prior": "pdediff.diffusion",
    "sampler": "pdediff.samplers",
    "posterior": "pdediff.posterior",
    "guidance": "pdediff.posterior",
    "operator": "pdediff.observe",
    "problem": "pdediff.stages.problems",
    "suite": "pdediff.stages.benchmarks",
}
PROTOCOLS: dict[str, str] = {
    "pde": "PDE",
    "network": "Network",
    "forecaster": "Surrogate",
    "noise": "NoiseField",
    "prior": "Denoiser",
    "sampler": "Sampler",
    "posterior": "Posterior",
    "guidance": "Guidance",
    "operator": "Operator",
    "problem": "InverseProblem",
    "suite": "Suite",
}
"""What a class of the group must offer; several groups may share a room."""

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
"""No silent conversion: 'true' is not 1, '1%' is not 0.01, NaN and infinity are not numbers."""

_PLAIN = (bool, int, float, str, type(None))


def canonical(group: str) -> AfterValidator:
    """For `Annotated[dict[str, Any], canonical(group)]`: a node that is validated and completed by its defaults.

    The defaults are written out so that the identity of a result changes when a default does.
    """

    def complete(node: dict[str, Any]) -> dict[str, Any]:
        found, problems = _assemble(group, node, "")
        if problems:
            raise Unfit(problems)
        return to_dict(found)

    return AfterValidator(complete)


def build(group: str, node: Mapping[str, Any]) -> Any:
    """The object that `node` describes.

    Raises `ConfigErrors` with every problem found.
    """
    found, problems = _assemble(group, node, group)
    if problems:
        raise ConfigErrors(problems)
    return found


def check(group: str, node: Mapping[str, Any], where: str | None = None) -> list[ConfigError]:
    """Every problem of `node`, named by its path under `where` (default: the group)."""
    return _assemble(group, node, group if where is None else where)[1]


def validate(model: type[Model], data: Mapping[str, Any], where: str = "") -> Model:
    """`data` as a strict pydantic model.

    Raises `ConfigErrors` with every problem found, nested nodes included.
    """
    values, problems = _as_data(dict(data), where)
    if problems:
        raise ConfigErrors(problems)
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigErrors(problems_of(error, values, where, functools.partial(_options, model))) from None


def to_dict(obj: Any) -> Any:
    """The node that builds `obj` again, every argument written out."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {"kind": type(obj).__name__, **_arguments(obj)}
    if isinstance(obj, Enum):
        return obj.value
    if isinstance(obj, Mapping):
        return {key: to_dict(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_dict(value) for value in obj]
    return obj


def _arguments(obj: Any) -> dict[str, Any]:
    """Arguments as data; a dataclass of numbers needs no kind, its place says what it is."""
    values = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj) if f.init}
    hints = _hints(type(obj))
    records = {n for n, v in values.items() if n not in ROOMS and type(v) in (hints[n], *get_args(hints[n]))}
    return {n: _arguments(v) if n in records and _is_record(type(v)) else to_dict(v) for n, v in values.items()}


def choices(group: str) -> dict[str, type]:
    """The classes that a node of `group` may name."""
    room = importlib.import_module(ROOMS[group])
    protocol = getattr(room, PROTOCOLS[group], None) if PROTOCOLS[group] in room.__all__ else None
    public = {name: getattr(room, name) for name in sorted(room.__all__)}
    return {name: cls for name, cls in public.items() if _offers(cls, protocol)}


def _offers(cls: Any, protocol: type | None) -> bool:
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or cls is protocol:
        return False
    if not all(name in ROOMS or _is_plain(hint) for name, hint in _hints(cls).items()):
        return False  # made from tensors or functions: not from a config
    if protocol is None:
        return True
    given = set(dir(cls)) | set(cls.__dataclass_fields__)
    if not all(member in given for member in _members(protocol)):
        return False
    return "__call__" not in _members(protocol) or _required(cls) == _required(protocol)


def _members(protocol: type) -> set[str]:
    wanted: set[str] = set()
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base is not typing.Protocol:
            annotated = inspect.get_annotations(base)
            wanted |= {m for m in (*base.__dict__, *annotated) if not m.startswith("_") or m == "__call__"}
    return wanted


def _required(cls: type) -> list[str]:
    """What a call must give: tells a posterior (prior, observation, n, seed) from a guidance (prior, observation)."""
    parameters = inspect.signature(cls.__call__).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def _assemble(group: str, node: Any, where: str) -> tuple[Any, list[ConfigError]]:
    """The object and the problems; the object is None when there are problems."""
    prefix = f"{where}: " if where else ""
    if not isinstance(node, Mapping) or not isinstance(node.get("kind"), str):
        message = f"{where or group} must be a mapping with `kind: ClassName`, not {show(node)}"
        return None, [ConfigError(message, hint=f"`pdediff list {group}` shows the ready-made ones")]
    known, kind = choices(group), node["kind"]
    if kind not in known:
        message = f"{join(where, 'kind')}={show(kind)} is not one of {options(kind, known, group)}"
        return None, [ConfigError(message, hint=nearest(kind, known))]
    cls = known[kind]
    hints = _hints(cls)
    arguments = {key: value for key, value in node.items() if key != "kind"}
    nested = {key: arguments.pop(key) for key in list(arguments) if _is_nested(key, hints.get(key), arguments[key])}
    built, problems = _nested(hints, nested, where)
    plain, wrong = _plain(cls, hints, arguments, set(nested), where)
    problems += wrong
    if problems:
        return None, problems
    try:
        return cls(**plain, **built), []
    except ConfigErrors as error:
        return None, [ConfigError(f"{prefix}{p.message}", hint=p.hint) for p in error.problems]
    except ConfigError as error:
        return None, [ConfigError(f"{prefix}{error.message}", hint=error.hint)]
    except ValueError as error:
        return None, [ConfigError(f"{prefix}{one_line(error)}")]


def _nested(hints: dict[str, Any], nodes: dict[str, Any], where: str) -> tuple[dict[str, Any], list[ConfigError]]:
    built: dict[str, Any] = {}
    problems: list[ConfigError] = []
    for name, node in nodes.items():
        if name not in ROOMS:
            raise TypeError(f"argument {name!r} of type {hints[name]} is named after no group of configs")
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            built[name] = node  # from Python: already an object
            continue
        built[name], wrong = _assemble(name, node, join(where, name))
        problems += wrong
    return built, problems


def _plain(
    cls: type, hints: dict[str, Any], arguments: dict[str, Any], nested: set[str], where: str
) -> tuple[dict[str, Any], list[ConfigError]]:
    values, problems = _as_data(arguments, where)
    if problems:
        return {}, problems
    try:
        checked = _argument_model(cls, frozenset(nested)).model_validate_json(json.dumps(values))
    except ValidationError as error:
        return {}, problems_of(error, values, where, lambda path: [] if path else list(hints))
    return {name: getattr(checked, name) for name in checked.model_fields_set}, []


@functools.cache
def _argument_model(cls: type, skipped: frozenset[str]) -> type[BaseModel]:
    hints = _hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.init and field.name not in skipped:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            hint = hints[field.name] if _is_plain(hints[field.name]) else Any
            arguments[field.name] = (hint, ... if required else None)
    return create_model(cls.__name__, __config__={**STRICT, "protected_namespaces": ()}, **arguments)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _is_nested(name: str, hint: Any, value: Any) -> bool:
    if hint is None or (value is None and type(None) in get_args(hint)):
        return False
    return (name in ROOMS and _is_record(hint)) or not _is_plain(hint)


def _is_record(hint: Any) -> bool:
    """Whether this is a dataclass of plain data, which a config writes as a mapping."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and all(map(_is_plain, _hints(hint).values()))


def _is_plain(hint: Any) -> bool:
    """Whether values of this type are data that JSON can carry."""
    if hint in (*_PLAIN, Any, Ellipsis) or (isinstance(hint, type) and issubclass(hint, Enum)):
        return True
    if _is_record(hint):
        return True
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_plain(get_args(hint)[0])
    if origin in (Union, types.UnionType, list, tuple, dict) or (
        isinstance(origin, type) and issubclass(origin, Iterable)
    ):
        return all(_is_plain(part) for part in get_args(hint))
    return False


def _options(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model at `path` inside `model`; none where there is no model."""
    found: Any = model
    for part in path:
        field = found.model_fields.get(str(part))
        found = None if field is None else field.annotation
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            return []
    return list(found.model_fields)


def _as_data(values: dict[str, Any], where: str) -> tuple[dict[str, Any], list[ConfigError]]:
    """`values` as JSON data, and a problem for each that is none."""
    kept, problems = {}, []
    for key, value in values.items():
        data = to_dict(value)
        try:
            json.dumps(data)
        except (TypeError, ValueError):
            problems.append(ConfigError(f"{join(where, key)}={show(value)} is not data (numbers, text, lists, maps)"))
        else:
            kept[key] = data
    return kept, problems

"""What pydantic finds wrong in a config, as the error lines that a user reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pdediff.errors import ConfigError

_ABOUT_A_PATH = re.compile(r"[A-Za-z_][\w.\[\]]*(=| is missing| has no option | must be a mapping )")


class Unfit(ValueError):
    """Problems inside one value, on their way through a pydantic validator; their paths are relative to it."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        super().__init__("; ".join(p.message for p in problems))
        self.problems = list(problems)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Hint with the valid name closest to a misspelt one, or None."""
    by_lower = {n.lower(): n for n in names}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean '{by_lower[found[0]]}'?" if found else None


def options(name: object, names: Iterable[str], where: str) -> str:
    """The valid names, as an error line lists them: those most like `name` where all would be too long."""
    known = list(names)
    if len(whole := ", ".join(known)) <= 90:
        return whole
    by_lower = {n.lower(): n for n in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.0)
    return f"{', '.join(by_lower[n] for n in near)}, ... ({len(known)} in all: `pdediff list {where}`)"


def show(value: Any) -> str:
    """A value as an error line quotes it: never long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def join(where: str, *parts: str | int) -> str:
    """Path of a part of a config: `posteriors[1].sampler.kind`."""
    for part in parts:
        where = f"{where}[{part}]" if isinstance(part, int) else f"{where}.{part}" if where else str(part)
    return where


def one_line(error: Exception) -> str:
    """Message of an exception without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def problems_of(
    error: ValidationError, data: Any, where: str, names: Callable[[Sequence[str | int]], Sequence[str]]
) -> list[ConfigError]:
    """One problem for each wrong value of `data`; the branches of a union become one line.

    `names(path)` are the options at a path, for the nearest name of an unknown one.
    """
    problems: list[ConfigError] = []
    expectations: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for detail in error.errors(include_url=False):
        path = _path(detail["loc"], data)
        label = join(where, *path)
        cause = detail.get("ctx", {}).get("error")
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problems.append(_unknown(where, path, names(path[:-1])))
        elif detail["type"] == "missing":
            problems.append(ConfigError(f"{join(label, detail['loc'][-1])} is missing", hint="it has no default"))
        elif isinstance(cause, Unfit):
            problems += [ConfigError(_prefixed(label, p.message), hint=p.hint) for p in cause.problems]
        elif detail["type"] == "value_error" and isinstance(detail.get("input"), Mapping | BaseModel):
            problems.append(ConfigError(f"{label}: {cause}" if label else str(cause)))
        else:
            values[label] = detail.get("input")
            expectations.setdefault(label, []).append(_expected(detail))
    for label, wanted in expectations.items():
        problems.append(ConfigError(f"{label}={show(values[label])} {_either(wanted)}"))
    return problems


def _unknown(where: str, path: tuple[str | int, ...], names: Sequence[str]) -> ConfigError:
    parent, name = join(where, *path[:-1]), str(path[-1])
    hint = nearest(name, names)
    if hint is None and names:
        hint = f"options: {', '.join(names)}"
    return ConfigError(f"{parent} has no option {show(name)}" if parent else f"unknown option {show(name)}", hint=hint)


def _prefixed(label: str, message: str) -> str:
    """A message about a part of `label`: `kind='x' ...` becomes `pde.kind='x' ...`."""
    if message.startswith("unknown option "):
        return f"{label} has no option {message.removeprefix('unknown option ')}"
    return f"{label}.{message}" if _ABOUT_A_PATH.match(message) else f"{label}: {message}"


def _path(loc: Sequence[str | int], data: Any) -> tuple[str | int, ...]:
    """The part of a pydantic location that exists in the data: names of union branches drop out."""
    path: list[str | int] = []
    found: Any = data
    for part in loc:
        if part in found if isinstance(found, Mapping) else isinstance(found, list) and isinstance(part, int):
            path.append(part)
            found = found[part]  # pyright: ignore
    return tuple(path)


def _expected(detail: Mapping[str, Any]) -> str:
    """What a value should have been, to follow `name=value`."""
    limits = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in limits:
        limit = context[limits[kind]]
        return f"must be {words[limits[kind]]} {limit if isinstance(limit, int) else format(limit, 'g')}"
    if kind == "literal_error":
        return "is not one of " + context["expected"].replace("'", "").replace(" or ", ", ")
    if kind == "multiple_of":
        return f"must be a multiple of {context['multiple_of']}"
    if kind == "value_error":
        return str(context["error"])
    plain = {
        "finite_number": "is not a finite number",
        "int_type": "is not a whole number",
        "int_from_float": "is not a whole number",
        "int_parsing_size": "is too large",
        "float_type": "is not a number",
        "bool_type": "is not true or false",
        "string_type": "is not text",
        "none_required": "is not null",
        "list_type": "is not a list",
        "tuple_type": "is not a list",
        "dict_type": "is not a mapping",
        "model_type": "is not a mapping",
        "model_attributes_type": "is not a mapping",
        "string_too_short": "is empty",
        "too_short": "has too few entries",
        "too_long": "has too many entries",
    }
    return plain.get(kind, f"is wrong: {detail['msg']}")


def _either(wanted: Sequence[str]) -> str:
    """`is not a number or null` out of `is not a number`, `is not null`."""
    unique = list(dict.fromkeys(wanted))
    if len(unique) > 1 and all(w.startswith("is not ") for w in unique):
        return unique[0] + "".join(f" or {w.removeprefix('is not ')}" for w in unique[1:])
    return " or ".join(unique)

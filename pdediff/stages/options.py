"""What the options of the stages are made of: constrained numbers, names, and nodes that build objects."""

from __future__ import annotations

import re
from typing import Annotated, Any

from annotated_types import Interval
from pydantic import AfterValidator

from pdediff.config import canonical

NAME = r"[a-z0-9][a-z0-9_.-]{0,63}"
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


def matching(pattern: str, what: str) -> AfterValidator:
    """For `Annotated[str, matching(...)]`: text that is `what`, as the error says otherwise."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"is not {what}")
        return text

    return AfterValidator(check)


Name = Annotated[str, matching(NAME, "a name (a-z, 0-9, '_', '.', '-'; at most 64; starts with a letter or digit)")]
FieldName = Annotated[str, matching(IDENTIFIER, "the name of a field")]
PdeNode = Annotated[dict[str, Any], canonical("pde")]
NetworkNode = Annotated[dict[str, Any], canonical("network")]
ForecasterNode = Annotated[dict[str, Any], canonical("forecaster")]
NoiseNode = Annotated[dict[str, Any], canonical("noise")]
SamplerNode = Annotated[dict[str, Any], canonical("sampler")]
PosteriorNode = Annotated[dict[str, Any], canonical("posterior")]
ProblemNode = Annotated[dict[str, Any], canonical("problem")]
Grid = Annotated[int, Interval(ge=4, le=4096)]
Count = Annotated[int, Interval(ge=1, le=100_000_000)]
Tile = Annotated[int, Interval(ge=1, le=65_536)]
Steps = Annotated[int, Interval(ge=1, le=10_000)]
Threads = Annotated[int, Interval(ge=1, le=1024)]

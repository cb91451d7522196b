"""What a benchmark can be told, whatever the suite."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Interval
from pydantic import BaseModel, model_validator

from pdediff.config import STRICT, canonical, choices
from pdediff.stages.options import Name
from pdediff.wording import show

SuiteNode = Annotated[dict[str, Any], canonical("suite")]


class BenchmarkConfig(BaseModel):
    """One `suite` against `peers` (null: all it knows): the best of `repeats` of at least `seconds` each.

    With `full` nothing is scaled up from a part.
    """

    model_config = STRICT

    name: Name | None = None
    suite: SuiteNode
    peers: list[str] | None = None
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 5
    seconds: Annotated[float, Interval(gt=0.0, le=3600.0)] = 0.3
    full: bool = False

    @model_validator(mode="after")
    def _known(self) -> BenchmarkConfig:
        known = tuple(choices("suite")[self.suite["kind"]].peers)  # type: ignore[attr-defined]
        for peer in self.peers or ():
            if peer not in known:
                raise ValueError(f"peers={show(self.peers)}: {show(peer)} is not one of {', '.join(known) or 'none'}")
        if len(set(self.peers or ())) < len(self.peers or ()):
            raise ValueError(f"peers={show(self.peers)} names a peer twice")
        return self

"""The errors a user can meet: one clear line, a hint, a context, and the exit code of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class PdediffError(Exception):
    """Base of all errors that are the user's to read: `code` names the kind, `exit_code` ends the process."""

    code: ClassVar[str] = "bug"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, context: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = dict(context or {})

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.context))

    def lines(self) -> list[str]:
        """What the terminal shows: the error, then the hint if there is one."""
        shown = [f"error[{self.code}]: {self.message}"]
        return shown + ([f"  hint: {self.hint}"] if self.hint else [])


class ConfigError(PdediffError):
    """A wrong option, config or call."""

    code = "config"
    exit_code = 2


class ConfigErrors(ConfigError):
    """All wrong entries of one config at once."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        super().__init__("; ".join(p.message for p in problems), context={"problems": list(problems)})
        self.problems = list(problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (ConfigErrors, (self.problems,))

    def lines(self) -> list[str]:
        return [line for problem in self.problems for line in problem.lines()]


class DataError(PdediffError):
    """Observations or data that cannot be used as they are."""

    code = "data"
    exit_code = 3


class MatchError(PdediffError):
    """A checkpoint, a data set and a config that do not belong together."""

    code = "match"
    exit_code = 4


class IntegrityError(PdediffError):
    """Stored bytes that are not what was written, or a store that is not complete."""

    code = "integrity"
    exit_code = 5


class NumericalError(PdediffError):
    """A computation that diverged."""

    code = "numeric"
    exit_code = 6


class ResourceError(PdediffError):
    """No disk, memory, permission, device or worker left."""

    code = "resource"
    exit_code = 7


class RejectedError(PdediffError):
    """Finished, but more samples were rejected than allowed."""

    code = "rejected"
    exit_code = 8


class LockedError(PdediffError):
    """Another run is writing the store."""

    code = "locked"
    exit_code = 75


class Interrupted(PdediffError):
    """Stopped by a signal; what was finished is kept and the same command continues."""

    code = "interrupted"
    exit_code = 130


def _rebuild(kind: type[PdediffError], message: str, hint: str | None, context: dict[str, object]) -> PdediffError:
    return kind(message, hint=hint, context=context)

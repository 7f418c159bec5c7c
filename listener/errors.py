"""What listener raises on purpose: one small tree, each with the exit code the command line gives it."""

from dataclasses import dataclass
from typing import ClassVar


class ListenerError(Exception):
    """A fault that a person can act on; its text names the place and the cure."""

    exit_code: ClassVar[int] = 1


class UsageError(ListenerError):
    """A flag or an environment variable is wrong."""

    exit_code: ClassVar[int] = 2


class OutOfReachError(ListenerError):
    """The database or the gateway does not answer."""

    exit_code: ClassVar[int] = 4


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fault:
    """One thing wrong in a file: where (1-based line and column), what, and how to mend it."""

    file: str
    line: int
    col: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class RulesError(ListenerError):
    """A rules file has faults; all of them at once, in the file's order."""

    def __init__(self, faults: "list[Fault]") -> None:
        self.faults = sorted(faults)
        super().__init__("\n".join(map(str, self.faults)))


class RenderError(ListenerError):
    """An expression or text could not be worked out for one change; the text is a reason for people."""


class TooShortError(RenderError):
    """A text or list has fewer items than a template takes it to have; longer ones would do."""


def describe(error: BaseException) -> str:
    """An error fit for a log: our own words, else the class alone; a library's text may hold data or secrets."""
    return str(error) if isinstance(error, ListenerError) else type(error).__name__

"""The words of `change:` on one change. What is asked is compiled once; what happened to a column is worked out once
for each change, however many rules ask for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from listener.arithmetic import same
from listener.errors import RenderError
from listener.model import Change
from listener.rules.schema import ColumnChange
from listener.text import decimal

_ABSENT = object()


class Move:
    """What happened to one column. Its numbers raise `RenderError` where the column holds something else."""

    def __init__(self, old: Any, new: Any) -> None:
        self.old = old
        self.new = new
        self.stayed = old is not _ABSENT and new is not _ABSENT and same(old, new)

    @cached_property
    def has_new(self) -> bool:
        return self.new is not None and self.new is not _ABSENT

    @cached_property
    def has_numbers(self) -> bool:
        """Whether there is one before and after. Both are read, so that what is no number is told whatever is asked."""
        if self.old is None or self.old is _ABSENT or not self.has_new:
            return False
        return self.before.is_finite() and self.after.is_finite()

    @cached_property
    def before(self) -> Decimal:
        return decimal(self.old)

    @cached_property
    def after(self) -> Decimal:
        return decimal(self.new)


class Moves(dict[str, Move]):
    """What happened to each column of one change, worked out when it is first asked for."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._old, self._new = change.old, change.new

    def __missing__(self, column: str) -> Move:
        """Raises `RenderError` when a row lacks the column."""
        for row in (self._old, self._new):
            if row is not None and column not in row:
                raise RenderError(f"the row has no {column}; if the table has it, run `listener db install`")
        old = self._old[column] if self._old is not None else _ABSENT
        new = self._new[column] if self._new is not None else _ABSENT
        move = self[column] = Move(old, new)
        return move


# What must be true of a column, and what is said when it is not
_Tests = tuple[tuple[Callable[[Move], bool], str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a rule asks of one column: `tests` when the row before is known, else `tests_of_new` alone."""

    column: str
    stayed: str
    tests: _Tests
    tests_of_new: _Tests

    def refusal(self, moves: Moves, *, old_known: bool = True) -> str | None:
        """None when the column changed as asked, else the reason why not, in words.

        Raises `RenderError` when a number is asked for and the column holds none, or a row lacks the column.
        """
        move = moves[self.column]
        if move.stayed:
            return self.stayed
        try:
            for true_of, otherwise in self.tests if old_known else self.tests_of_new:
                if not true_of(move):
                    return otherwise
        except RenderError as error:
            raise RenderError(f"{self.column}: {error}") from None
        return None


def compile_change(column: str, asked: ColumnChange) -> Condition:
    said = asked.model_fields_set
    was: _Tests = ()
    now: _Tests = ()
    if "from_" in said:
        was = ((lambda m: _among(m.old, asked.from_), f"{column} was not {_words(asked.from_)} before"),)
    if "to" in said:
        now = ((lambda m: _among(m.new, asked.to), f"{column} is not {_words(asked.to)} now"),)
    return Condition(
        column=column,
        stayed=f"{column} did not change",
        tests=was + now + _moved(column, asked),
        tests_of_new=now + _stands(column, asked),
    )


def _moved(column: str, asked: ColumnChange) -> _Tests:
    below, above, up, down = asked.crosses_below, asked.crosses_above, asked.increases_by, asked.decreases_by
    tests: _Tests = ()
    if below is not None:
        tests += ((lambda m: m.before >= below > m.after, f"{column} did not fall below {below}"),)
    if above is not None:
        tests += ((lambda m: m.before <= above < m.after, f"{column} did not rise above {above}"),)
    if up is not None:
        tests += ((lambda m: m.after - m.before >= up, f"{column} did not grow by {up}"),)
    if down is not None:
        tests += ((lambda m: m.before - m.after >= down, f"{column} did not fall by {down}"),)
    return ((lambda m: m.has_numbers, f"{column} has no value before or after"), *tests) if tests else ()


def _stands(column: str, asked: ColumnChange) -> _Tests:
    below, above, up, down = asked.crosses_below, asked.crosses_above, asked.increases_by, asked.decreases_by
    tests: _Tests = ()
    if (below, above, up, down) != (None, None, None, None):
        tests += ((lambda m: m.has_new, f"{column} has no value"),)
    if below is not None:
        tests += ((lambda m: m.after < below, f"{column} is not below {below}"),)
    if above is not None:
        tests += ((lambda m: m.after > above, f"{column} is not above {above}"),)
    return tests


def _among(value: Any, asked: tuple[Any, ...]) -> bool:
    return value is not _ABSENT and any(same(value, one) for one in asked)


def _words(asked: tuple[Any, ...]) -> str:
    """As the file writes them."""
    named = {"None": "null", "True": "true", "False": "false"}
    return " or ".join(value if isinstance(value, str) else named.get(str(value), str(value)) for value in asked)

"""The words of `change:` on one change."""

from decimal import Decimal
from typing import Any

from listener.errors import RenderError
from listener.model import Change
from listener.rules.schema import ColumnChange
from listener.text import decimal

_ABSENT = object()


def holds(column: str, asked: ColumnChange, change: Change, *, old_known: bool = True) -> str | None:
    """None when `column` changed as asked, else the reason why not, in words.

    With `old_known` False only what is asked of the new value is judged.

    Raises `RenderError` when a number is asked for and the column holds none, or a row lacks the column.
    """
    for row in (change.old, change.new):
        if row is not None and column not in row:
            raise RenderError(f"the row has no {column}; if the table has it, run `listener db install`")
    old = change.old[column] if change.old is not None else _ABSENT
    new = change.new[column] if change.new is not None else _ABSENT
    if old is not _ABSENT and new is not _ABSENT and same(old, new):
        return f"{column} did not change"
    said = asked.model_fields_set
    if "from_" in said and old_known and not _among(old, asked.from_):
        return f"{column} was not {_words(asked.from_)} before"
    if "to" in said and not _among(new, asked.to):
        return f"{column} is not {_words(asked.to)} now"
    if any(
        word is not None for word in (asked.crosses_below, asked.crosses_above, asked.increases_by, asked.decreases_by)
    ):
        return _moved(column, asked, old, new) if old_known else _stands(column, asked, new)
    return None


def _stands(column: str, asked: ColumnChange, new: Any) -> str | None:
    if new in (None, _ABSENT):
        return f"{column} has no value"
    if asked.crosses_below is not None and not decimal(new) < asked.crosses_below:
        return f"{column} is not below {asked.crosses_below}"
    if asked.crosses_above is not None and not decimal(new) > asked.crosses_above:
        return f"{column} is not above {asked.crosses_above}"
    return None


def _moved(column: str, asked: ColumnChange, old: Any, new: Any) -> str | None:
    if old in (None, _ABSENT) or new in (None, _ABSENT):
        return f"{column} has no value before or after"
    before, after = decimal(old), decimal(new)
    if asked.crosses_below is not None and not before >= asked.crosses_below > after:
        return f"{column} did not fall below {asked.crosses_below}"
    if asked.crosses_above is not None and not before <= asked.crosses_above < after:
        return f"{column} did not rise above {asked.crosses_above}"
    if asked.increases_by is not None and after - before < asked.increases_by:
        return f"{column} did not grow by {asked.increases_by}"
    if asked.decreases_by is not None and before - after < asked.decreases_by:
        return f"{column} did not fall by {asked.decreases_by}"
    return None


def same(one: Any, other: Any) -> bool:
    """Whether a value of the file and one of a row are the same: `3` and `"3"` are, since columns may be text."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other or str(one).lower() == str(other).lower()
    if isinstance(one, str) != isinstance(other, str) and one is not None and other is not None:
        text, value = (one, other) if isinstance(one, str) else (other, one)
        if isinstance(value, Decimal) and value.is_finite():
            # 3.00 of a numeric column is the code "3"
            whole = value == value.to_integral_value()
            return text == format(value, "f") or (whole and text == format(value, ".0f"))
        return text == str(value)
    return bool(one == other)


def _among(value: Any, asked: Any) -> bool:
    values = asked if isinstance(asked, tuple) else (asked,)
    return value is not _ABSENT and any(same(value, one) for one in values)


def _words(asked: Any) -> str:
    values = asked if isinstance(asked, tuple) else (asked,)
    return " or ".join("null" if value is None else str(value) for value in values)

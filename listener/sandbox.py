"""What a template holds while it renders, and what that may cost.

A template holds no Python object it could call or look into. What it does with its values goes through the functions of
`listener.operators`, which are the whole language, and everything that can grow or take long is bounded: a hostile or
mistaken template ends with a RenderError within about 100 ms and 1 MB.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from unicodedata import normalize

from jinja2 import Undefined
from jinja2.runtime import Context

from listener.errors import RenderError
from listener.words import nearest

MAX_TEXT = 10_000
"""Characters in any text a template makes; the gateway takes 1,000."""
MAX_ITEMS = 5_000
"""Items in any list or range that a template goes through."""
MAX_WORK = 50_000
"""Units one rendering may spend. A unit is one node of a loop's body, or 8 characters or 1 item gone through, each of
which takes well below a microsecond."""
CALL = 10
"""Units of a call of a filter, test or function, whatever it is given."""


class Row:
    """A row of a table or of a lookup: in a template its attributes are its columns and nothing else.

    Numbers are Decimal. `name` is what errors call the row. A nested object (jsonb) is a Row in turn, without a name:
    a key that it does not have is NULL.
    """

    __slots__ = ("_columns", "_name")

    def __init__(self, columns: Mapping[str, object], name: str = "") -> None:
        self._columns = columns
        self._name = name


@dataclass(frozen=True, slots=True)
class Missing:
    """A lookup that found no row: false, `none`, and a RenderError with the reason as soon as it is used."""

    reason: str

    def __bool__(self) -> bool:
        return False


class Run(Context):
    """The names of one rendering and the work it may still spend."""

    work_left = MAX_WORK

    def spend(self, units: int) -> None:
        self.work_left -= units
        if self.work_left < 0:
            raise RenderError("the template loops too often or handles too much text")


def size(value: object) -> int:
    """The work it takes to go through a value once."""
    if isinstance(value, str):
        return len(value) >> 3
    return len(value) if isinstance(value, list | tuple | range) else 0


def similar(word: str, words: Iterable[str]) -> str:
    """`did you mean "balance"?`, or nothing."""
    near = nearest(word, words, likeness=0.5)
    return f'did you mean "{near}"?' if near else ""


def unknown(message: str, word: str, known: Iterable[str]) -> RenderError:
    """The error for a word that is none of those known, with the one that may be meant."""
    hint = similar(word, known)
    return RenderError(f"{message}; {hint}" if hint else message)


def need(value: object, label: str) -> None:
    """Raises RenderError if there is no value: NULL, a lookup without a row, or an undefined name."""
    if value is None:
        raise RenderError(f"{label} is NULL")
    if isinstance(value, Missing):
        raise RenderError(value.reason)
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises its own words


def kind(value: object) -> str:
    """What a value is, in words for people; never the value itself."""
    match value:
        case str():
            return "a text"
        case bool():
            return "true or false"
        case int() | Decimal():
            return "a number"
        case datetime() | date() | time():
            return "a date or time"
        case list() | tuple() | range():
            return "a list"
        case Row():
            return "a row"
    return f"of type {type(value).__name__}"


def nested(value: object) -> object:
    """A value of a row as templates see it: an object is a Row, and letters have their marks in them (NFC), as people
    type them in rules."""
    if isinstance(value, str) and not value.isascii():
        return normalize("NFC", value)
    return Row(value) if isinstance(value, dict) else value


def column(row: Row, name: str) -> object:
    """The value of one. Raises RenderError where a table or a lookup has none of this name."""
    try:
        found = row._columns[name]
    except KeyError:
        if not row._name:
            # As PostgreSQL's ->> has it: what objects lack differs from row to row, such as a name's translations.
            return None
        raise unknown(f'{row._name} has no column "{name}"', name, row._columns) from None
    return nested(found)


def whole(value: object) -> int:
    """An int from a whole number; bounded, so that it is cheap and fits any length."""
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return value
    raise RenderError("a whole number was expected")


def plain(value: object) -> object:
    """An argument as Python's own functions want it: a whole Decimal becomes an int."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value) < 10**9 and value == value.to_integral_value():
        return int(value)
    return value


def joined(parts: Iterable[str]) -> str:
    """Concatenation that stops at MAX_TEXT. Jinja uses it for the whole output too."""
    pieces, length = [], 0
    for piece in parts:
        length += len(piece)
        if length > MAX_TEXT:
            raise RenderError(f"the text grows longer than {MAX_TEXT:,} characters")
        pieces.append(piece)
    return "".join(pieces)

"""What a template can reach while it renders: values, operators and the work they may cost.

A template holds no Python object it could call or look into. `listener.syntax` turns each operator, attribute and
loop of it into a call of one function below, so this list is the whole language, and everything that can grow or take
long is bounded here: a hostile or mistaken template ends with a RenderError within about 100 ms and 1 MB.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Context as Arithmetic
from decimal import Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import cache, partial
from typing import Any
from unicodedata import normalize
from zoneinfo import ZoneInfo

from jinja2 import Undefined, pass_context
from jinja2.filters import do_title
from jinja2.runtime import Context, LoopContext

from listener.errors import RenderError, TooShortError
from listener.text import decimal, format_date, format_datetime, format_time
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

# 1,000 digits hold the sum and the product of any two double precision or money values; what does not fit is refused
# rather than rounded. A quotient has no end in general, so division alone rounds, far below a dong.
_EXACT = Arithmetic(prec=1000, Emax=999, Emin=-999, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
_DIVISION = Arithmetic(prec=60, traps=[InvalidOperation, DivisionByZero, Overflow])


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


def attribute(zone: ZoneInfo, value: object, name: str, label: str) -> object:
    """`value.name`: a column, a field of a date or time on the clocks of `zone`, or a counter of the loop."""
    if type(value) is Row:
        try:
            found = value._columns[name]
        except KeyError:
            if not value._name:
                # As PostgreSQL's ->> has it: what objects lack differs from row to row, such as a name's translations.
                return None
            raise unknown(f'{value._name} has no column "{name}"', name, value._columns) from None
        return nested(found)
    if isinstance(value, LoopContext) and name in _LOOP_FIELDS:
        return getattr(value, name)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(zone)
    if (isinstance(value, date) and name in _DATE_FIELDS) or (
        isinstance(value, datetime | time) and name in _TIME_FIELDS
    ):
        return getattr(value, name)
    if value is None:
        raise RenderError(f'{label} is NULL and has no "{name}"')
    need(value, label)
    raise RenderError(f'{label} is {kind(value)} and has no "{name}"')


_LOOP_FIELDS = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})
_DATE_FIELDS = frozenset({"year", "month", "day"})
_TIME_FIELDS = frozenset({"hour", "minute", "second"})


def nested(value: object) -> object:
    """A value of a row as templates see it: an object is a Row, and letters have their marks in them (NFC), as people
    type them in rules."""
    if isinstance(value, str) and not value.isascii():
        return normalize("NFC", value)
    return Row(value) if isinstance(value, dict) else value


def item(zone: ZoneInfo, value: object, key: object, label: str) -> object:
    """`value[key]`: a column by its name, or one item of a list or character of a text by its number from 0."""
    if isinstance(key, str):
        return attribute(zone, value, key, label)
    need(value, label)
    if not isinstance(value, str | list | tuple | range):
        raise RenderError(f"{label} is {kind(value)} and has no numbered items")
    try:
        return nested(value[whole(key)])
    except IndexError:
        raise TooShortError(f"{label} has only {len(value)} items") from None


@pass_context
def part(run: Run, value: object, start: object, stop: object, step: object, label: str) -> object:
    """`value[start:stop:step]` of a text or list."""
    need(value, label)
    if not isinstance(value, str | list | tuple | range):
        raise RenderError(f"{label} is {kind(value)} and has no parts")
    run.spend(size(value))
    bounds = [None if bound is None else whole(bound) for bound in (start, stop, step)]
    return value[slice(*bounds)]


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


def show(zone: ZoneInfo, value: object, label: str) -> str:
    """The value as it stands in a text: exact digits without exponent, dates as Vietnam writes them, never "None"."""
    if type(value) is str:
        return value
    match value:
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            exact = decimal(value)
            return f"{exact.copy_abs() if exact.is_zero() else exact:f}"
        case datetime():
            return format_datetime(value, zone)
        case date():
            return format_date(value, zone)
        case time():
            return format_time(value, zone)
    need(value, label)
    raise RenderError(f"{label} is {kind(value)} and has no text of its own")


def joined(parts: Iterable[str]) -> str:
    """Concatenation that stops at MAX_TEXT. Jinja uses it for the whole output too."""
    pieces, length = [], 0
    for piece in parts:
        length += len(piece)
        if length > MAX_TEXT:
            raise RenderError(f"the text grows longer than {MAX_TEXT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def arithmetic(left: object, op: str, right: object, left_label: str, right_label: str) -> object:
    """`left op right`, exact in Decimal; `//` and `%` cut towards zero. Texts know `+`, and `*` with a number."""
    if isinstance(left, str):
        if op == "+" and isinstance(right, str):
            return joined((left, right))
        if op == "*" and not isinstance(right, str):
            need(right, right_label)
            times = max(0, whole(right))
            if len(left) * times > MAX_TEXT:
                raise RenderError(f"the text grows longer than {MAX_TEXT:,} characters")
            return left * times
    a, b = operand(left, left_label, op), operand(right, right_label, op)
    try:
        return _ARITHMETIC[op](a, b)
    except Inexact:
        raise RenderError("the number grows longer than 1,000 digits") from None
    except Overflow:
        raise RenderError("the number grows too large") from None
    except (DivisionByZero, InvalidOperation):
        raise RenderError("division by zero" if b == 0 else "the sum cannot be worked out exactly") from None


_ARITHMETIC: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": _EXACT.add,
    "-": _EXACT.subtract,
    "*": _EXACT.multiply,
    "/": _DIVISION.divide,
    "//": _EXACT.divide_int,
    "%": _EXACT.remainder,
}


def operand(value: object, label: str, op: str) -> Decimal:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return decimal(value) if isinstance(value, int) else value
    need(value, label)
    hint = "; join texts with ~, and make a number of a text with | float" if isinstance(value, str) else ""
    raise RenderError(f"{label} is {kind(value)}, not a number, beside {op}{hint}")


def negative(value: object, label: str) -> Decimal:
    return operand(value, label, "-").copy_negate()


def positive(value: object, label: str) -> Decimal:
    return operand(value, label, "+")


def compare(left: object, op: str, right: object, left_label: str, right_label: str) -> bool:
    """`left op right` of single values, or `in` a list or a text. NULL equals only NULL and has no order."""
    left = None if isinstance(left, Missing) else left
    if op in ("in", "notin"):
        return contains(left, right, right_label) is (op == "in")
    right = None if isinstance(right, Missing) else right
    for side, label in ((left, left_label), (right, right_label)):
        if isinstance(side, list | tuple | range | Row):
            raise RenderError(f"{label} is {kind(side)}, which cannot be compared")
        if isinstance(side, Undefined) or (side is None and op not in ("eq", "ne")):
            need(side, label)
    try:
        if isinstance(left, str) != isinstance(right, str) and op in ("eq", "ne"):
            return same(left, right) is (op == "eq")
        return bool(_COMPARISON[op](left, right))
    except TypeError:
        raise RenderError(f"{left_label} is {kind(left)} and {right_label} is {kind(right)}: neither is more") from None
    except InvalidOperation:
        raise RenderError(f"{left_label} or {right_label} is NaN, which is neither more nor less") from None


_COMPARISON: dict[str, Callable[[Any, Any], object]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}


def contains(value: object, container: object, label: str) -> bool:
    """`value in container`, a list or a text."""
    if isinstance(value, list | tuple | range | Row):
        raise RenderError(f"{kind(value)} cannot be looked for in {label}")
    if isinstance(container, str):
        if not isinstance(value, str):
            raise RenderError(f"only a text can be in {label}, which is a text")
        return value in container
    need(container, label)
    if not isinstance(container, list | tuple | range):
        raise RenderError(f"{label} is {kind(container)}, not a list")
    return value in container or any(
        same(value, entry) for entry in container if isinstance(value, str) != isinstance(entry, str)
    )


def same(one: Any, other: Any) -> bool:
    """Whether a value of the file and one of a row are the same: `3` and `"3"` are, since columns may be text, and a
    date of a lookup and the text that a captured row has it as, and two words that differ in nothing but their letters'
    marks standing apart."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other or str(one).lower() == str(other).lower()
    if isinstance(one, str) != isinstance(other, str) and one is not None and other is not None:
        text, value = (one, other) if isinstance(one, str) else (other, one)
        match value:
            case Decimal() if value.is_finite():
                # 3.00 of a numeric column is the code "3"
                whole = value == value.to_integral_value()
                return text == format(value, "f") or (whole and text == format(value, ".0f"))
            case datetime():
                try:
                    return datetime.fromisoformat(text) == value
                except ValueError:
                    return False
        return text == str(value)
    if isinstance(one, str) and isinstance(other, str) and not (one.isascii() or other.isascii()):
        return one == other or normalize("NFC", one) == normalize("NFC", other)
    return bool(one == other)


@pass_context
def paid_compare(run: Run, left: object, op: str, right: object, left_label: str, right_label: str) -> bool:
    run.spend(size(left) + size(right))
    return compare(left, op, right, left_label, right_label)


@pass_context
def loop(run: Run, items: object, cost: int, label: str) -> list[object]:
    """What a `for` goes through, paid for in advance: `cost` nodes an item."""
    items = elements(items, label)
    run.spend((cost + 1) * len(items))
    return items


def elements(items: object, label: str) -> list[object]:
    """The items of a list, a jsonb object among them as a Row. Raises RenderError for what is no list, or too long."""
    need(items, label)
    if not isinstance(items, list | tuple | range):
        raise RenderError(f"{label} is {kind(items)}, not a list")
    if len(items) > MAX_ITEMS:
        raise RenderError(f"{label} has more than {MAX_ITEMS:,} items")
    return [nested(entry) for entry in items]


def literal(items: Iterable[object]) -> list[object]:
    """`[a, b]`; flat, because thirty lists of the list before would be a billion items."""
    items = list(items)
    if any(isinstance(entry, list | tuple | range) for entry in items):
        raise RenderError("a list cannot hold lists")
    return items


def numbers(*bounds: object) -> range:
    """`range(...)`."""
    result = range(*map(whole, bounds))
    if len(result) > MAX_ITEMS:
        raise RenderError(f"range has more than {MAX_ITEMS:,} numbers")
    return result


@cache
def number_literal(digits: str) -> Decimal:
    return Decimal(digits)


def replace(s: str, old: str, new: str, count: int | None = None) -> str:
    """`s` with `new` for each `old`, or for the first `count` of them; measured before it is made."""
    if not isinstance(old, str) or not isinstance(new, str):
        raise RenderError("replace needs two texts")
    times = s.count(old) if count is None else min(s.count(old), count)
    if len(s) + times * (len(new) - len(old)) > MAX_TEXT:
        raise RenderError(f"the text grows longer than {MAX_TEXT:,} characters")
    return s.replace(old, new, -1 if count is None else count)


METHODS: dict[str, Callable[..., object]] = {
    "upper": lambda s: s.upper(),
    "lower": lambda s: s.lower(),
    "capitalize": lambda s: s.capitalize(),
    "title": do_title,
    "strip": lambda s, chars=None: s.strip(chars),
    "replace": replace,
    "lstrip": lambda s, chars=None: s.lstrip(chars),
    "rstrip": lambda s, chars=None: s.rstrip(chars),
    "startswith": lambda s, prefix: s.startswith(prefix),
    "endswith": lambda s, suffix: s.endswith(suffix),
    "removeprefix": lambda s, prefix: s.removeprefix(prefix),
    "removesuffix": lambda s, suffix: s.removesuffix(suffix),
    "find": lambda s, sub: s.find(sub),
    "count": lambda s, sub: s.count(sub),
    "split": lambda s, sep=None, maxsplit=-1: s.split(sep, maxsplit),
    "isdigit": lambda s: s.isdigit(),
}
"""What can be called on a text as `text.name(...)`."""


@pass_context
def method(run: Run, value: object, name: str, label: str, /, *args: object, **kwargs: object) -> object:
    need(value, label)
    if not isinstance(value, str):
        raise RenderError(f"{label} is {kind(value)} and has no {name}()")
    run.spend(CALL + size(value))
    try:
        return METHODS[name](value, *map(plain, args), **kwargs)
    except (TypeError, ValueError):
        raise RenderError(f"{label}.{name}(...) is given something it cannot work with") from None


def operators(zone: ZoneInfo) -> dict[str, Callable[..., object]]:
    """Every operator by the name that `listener.syntax` lowers it to; the space keeps it out of a template."""
    return {
        "op attribute": partial(attribute, zone),
        "op item": partial(item, zone),
        "op part": part,
        "op show": partial(show, zone),
        "op join": lambda first, *rest: joined((first, *rest)),
        "op arithmetic": arithmetic,
        "op negative": negative,
        "op positive": positive,
        "op compare": paid_compare,
        "op loop": loop,
        "op list": literal,
        "op range": numbers,
        "op number": number_literal,
        "op method": method,
    }

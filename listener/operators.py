"""What a template can do with its values: `listener.syntax` turns each operator, attribute and loop of it into a call
of one function below, paid for by the work that it may cost (`listener.sandbox`).
"""

from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache, partial
from zoneinfo import ZoneInfo

from jinja2 import pass_context
from jinja2.filters import do_title
from jinja2.runtime import LoopContext

from listener.arithmetic import arithmetic, compare, negative, positive
from listener.errors import RenderError, TooShortError
from listener.sandbox import (
    CALL,
    MAX_ITEMS,
    MAX_TEXT,
    Row,
    Run,
    column,
    joined,
    kind,
    need,
    nested,
    plain,
    size,
    whole,
)
from listener.text import decimal, format_date, format_datetime, format_time


def attribute(zone: ZoneInfo, value: object, name: str, label: str) -> object:
    """`value.name`: a column, a field of a date or time on the clocks of `zone`, or a counter of the loop."""
    if type(value) is Row:
        return column(value, name)
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

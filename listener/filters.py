"""The filters and tests of the template language: ours (vnd, date, label...) and the safe part of Jinja's own.

Those of Jinja's that keep their name keep their meaning, but for three that would be wrong for money and people:
`default` also stands in for NULL, `int` and `float` refuse what is no number instead of making it 0, and `float` and
`round` stay exact (`round` half up).
"""

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from enum import Enum, auto
from functools import partial
from typing import Any
from unicodedata import normalize
from zoneinfo import ZoneInfo

from jinja2 import Undefined, pass_context

from listener import text
from listener.arithmetic import compare, contains
from listener.errors import RenderError
from listener.operators import METHODS, attribute, elements, show
from listener.sandbox import CALL, MAX_TEXT, Missing, Row, Run, joined, kind, need, plain, size, unknown


class Takes(Enum):
    """What a filter is given: the value as it is, or turned into one of these first."""

    ANYTHING = auto()
    TEXT = auto()
    NUMBER = auto()
    LIST = auto()
    TEXT_OR_LIST = auto()


@dataclass(frozen=True, slots=True)
class Filter:
    """`function(value, *arguments)`; with `run` it is given the rendering first."""

    takes: Takes
    function: Callable[..., object]
    null: bool = False
    """Whether it may be given NULL or an undefined name."""
    run: bool = False


class Filters:
    """All filters and tests for one set of labels and one time zone."""

    def __init__(self, labels: Mapping[str, Mapping[str, str]], zone: ZoneInfo) -> None:
        self._labels = {
            name: {normalize("NFC", code): word for code, word in words.items()} for name, words in labels.items()
        }
        self._zone = zone
        of_list = partial(Filter, Takes.LIST)
        self.filters: dict[str, Filter] = {
            "vnd": Filter(Takes.NUMBER, text.vnd),
            "number": Filter(Takes.NUMBER, text.number),
            "date": Filter(Takes.ANYTHING, lambda value: text.format_date(value, zone)),
            "time": Filter(Takes.ANYTHING, lambda value: text.format_time(value, zone)),
            "datetime": Filter(Takes.ANYTHING, lambda value: text.format_datetime(value, zone)),
            "label": Filter(Takes.TEXT, self._label),
            "unaccent": Filter(Takes.TEXT, lambda s: text.unaccent(s)),
            "shorten": Filter(Takes.TEXT, lambda s, n: text.shorten(s, n)),
            "string": Filter(Takes.TEXT, lambda s: s),
            "trim": Filter(Takes.TEXT, METHODS["strip"]),
            **{
                name: Filter(Takes.TEXT, METHODS[name]) for name in ("upper", "lower", "capitalize", "title", "replace")
            },
            "wordcount": Filter(Takes.TEXT, lambda s: len(s.split())),
            "abs": Filter(Takes.NUMBER, lambda number: number.copy_abs()),
            "round": Filter(Takes.NUMBER, rounded),
            "int": Filter(Takes.NUMBER, lambda number: int(number)),
            "float": Filter(Takes.NUMBER, lambda number: number),
            "default": Filter(Takes.ANYTHING, default, null=True),
            "d": Filter(Takes.ANYTHING, default, null=True),
            "length": Filter(Takes.TEXT_OR_LIST, lambda value: len(value)),
            "count": Filter(Takes.TEXT_OR_LIST, lambda value: len(value)),
            "first": Filter(Takes.TEXT_OR_LIST, partial(at_end, index=0)),
            "last": Filter(Takes.TEXT_OR_LIST, partial(at_end, index=-1)),
            "reverse": Filter(Takes.TEXT_OR_LIST, lambda value: value[::-1]),
            "list": of_list(lambda items: items),
            "join": of_list(self._join),
            "sum": of_list(self._sum),
            "min": of_list(lambda items, attribute=None: min(items, key=self._key(attribute), default=None)),
            "max": of_list(lambda items, attribute=None: max(items, key=self._key(attribute), default=None)),
            "sort": of_list(self._sort),
            "unique": of_list(self._unique),
            "map": of_list(self._map, run=True),
            "select": of_list(partial(self._select, True), run=True),
            "reject": of_list(partial(self._select, False), run=True),
            "selectattr": of_list(partial(self._select_attribute, True), run=True),
            "rejectattr": of_list(partial(self._select_attribute, False), run=True),
        }
        self.tests = TESTS

    def operators(self) -> dict[str, Callable[..., object]]:
        return {"op filter": self.apply, "op test": self.test}

    @pass_context
    def apply(self, run: Run, value: object, name: str, label: str, /, *args: object, **kwargs: object) -> object:
        """`value | name(...)`; an error begins with `label`, which says whose value it was."""
        chosen = self.filters.get(name)
        if chosen is None:
            raise unknown(f'there is no filter "{name}"', name, self.filters)
        run.spend(CALL + size(value))
        if not chosen.null:
            need(value, label)
            value = self._taken(chosen.takes, value, label)
        if args:
            args = tuple(map(plain, args))
        try:
            if chosen.run:
                result = chosen.function(run, value, *args, **kwargs)
            else:
                result = chosen.function(value, *args, **kwargs)
        except RenderError as error:
            raise RenderError(f"{label} | {name}: {error}") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            raise RenderError(f"{label} | {name}: the filter cannot work with what it is given") from None
        if isinstance(result, str) and len(result) > MAX_TEXT:
            raise RenderError(f"{label} | {name}: the text is longer than {MAX_TEXT:,} characters")
        return result

    def _taken(self, takes: Takes, value: object, label: str) -> object:
        if takes is Takes.ANYTHING:
            return value
        if takes is Takes.NUMBER:
            try:
                return text.decimal(value)
            except RenderError as error:
                raise RenderError(f"{label}: {error}") from None
        if takes is Takes.TEXT or (takes is Takes.TEXT_OR_LIST and isinstance(value, str)):
            return show(self._zone, value, label)
        return elements(value, label)

    @pass_context
    def test(self, run: Run, value: object, name: str, label: str, /, *args: object) -> bool:
        """`value is name(...)`."""
        chosen = self.tests.get(name)
        if chosen is None:
            raise unknown(f'there is no test "{name}"', name, self.tests)
        if isinstance(value, Undefined) and name not in ("defined", "undefined"):
            need(value, label)
        run.spend(CALL + size(value) + sum(map(size, args)))
        try:
            return chosen(value, *map(plain, args))
        except (TypeError, ValueError, ArithmeticError):
            raise RenderError(f"{label} is {kind(value)}, which cannot be tested for {name}") from None

    def _label(self, code: str, name: str) -> str:
        words = self._labels.get(name)
        if words is None:
            raise unknown(f'there is no set of labels "{name}"', name, self._labels)
        code = normalize("NFC", code)
        # 3.00 of a numeric column is the code 3
        word = words.get(code) or words.get(_WHOLE.sub("", code))
        if word is None:
            raise RenderError(f'labels "{name}" have no word for "{text.shorten(code, 40)}"')
        return word

    def _of(self, entry: object, path: str) -> object:
        """A column of an item, or of a row within it (`"customer.name"`)."""
        for name in path.split("."):
            entry = attribute(self._zone, entry, name, "an item")
        return entry

    def _key(self, path: str | None) -> Callable[[object], Any]:
        """What a list is ordered by; texts without regard to case, as Jinja does."""

        def key(entry: object) -> object:
            value = entry if path is None else self._of(entry, path)
            need(value, "an item")
            if isinstance(value, list | Row):
                raise RenderError(f"{kind(value)} has no order")
            return value.lower() if isinstance(value, str) else value

        return key

    def _join(self, items: list[object], sep: str = "", attribute: str | None = None) -> str:
        if not isinstance(sep, str):
            raise RenderError("a separator is a text")
        if attribute is not None:
            items = [self._of(entry, attribute) for entry in items]
        shown = [show(self._zone, entry, "an item") for entry in items]
        return joined(piece for index, entry in enumerate(shown) for piece in ((sep, entry) if index else (entry,)))

    def _sum(self, items: list[object], attribute: str | None = None, start: object = 0) -> Decimal:
        values = items if attribute is None else [self._of(entry, attribute) for entry in items]
        total = text.decimal(start)
        for value in values:
            total = _WIDE.add(total, text.decimal(value))
        return total

    def _sort(self, items: list[object], reverse: bool = False, attribute: str | None = None) -> list[object]:
        return sorted(items, key=self._key(attribute), reverse=bool(reverse))

    def _unique(self, items: list[object], attribute: str | None = None) -> list[object]:
        key = self._key(attribute)
        seen: dict[Hashable, object] = {}
        for entry in items:
            seen.setdefault(key(entry), entry)
        return list(seen.values())

    def _map(
        self, run: Run, items: list[object], name: str | None = None, *args: object, attribute: str | None = None
    ) -> list[object]:
        if attribute is not None and name is None and not args:
            return [self._of(entry, attribute) for entry in items]
        if name is None or attribute is not None or name == "map":
            raise RenderError("map needs the name of another filter, or attribute=...")
        return [self.apply(run, entry, name, "an item", *args) for entry in items]

    def _select(
        self, keep: bool, run: Run, items: list[object], test: str | None = None, *args: object
    ) -> list[object]:
        return [entry for entry in items if self._passes(run, entry, test, args) is keep]

    def _select_attribute(
        self, keep: bool, run: Run, items: list[object], attribute: str, test: str | None = None, *args: object
    ) -> list[object]:
        return [entry for entry in items if self._passes(run, self._of(entry, attribute), test, args) is keep]

    def _passes(self, run: Run, value: object, test: str | None, args: tuple[object, ...]) -> bool:
        return bool(value) if test is None else self.test(run, value, test, "an item", *args)


_WIDE = Context(prec=1000)
_WHOLE = re.compile(r"(?<=\d)\.0+\Z", re.ASCII)
_ROUNDINGS = {"common": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}


def rounded(number: Decimal, precision: int = 0, method: str = "common") -> Decimal:
    """`number` with `precision` decimals, -20 to 20; `method` is common (half up), ceil or floor."""
    if method not in _ROUNDINGS or not -20 <= precision <= 20:
        raise RenderError("round takes -20 to 20 decimals, and common, ceil or floor")
    nearest = number.quantize(Decimal(1).scaleb(-precision), rounding=_ROUNDINGS[method], context=_WIDE)
    return nearest.quantize(Decimal(1), context=_WIDE) if precision < 0 else nearest


def default(value: object, instead: object = "", boolean: bool = False) -> object:
    """`value`, or `instead` where it is NULL or undefined (with `boolean`: where it is empty, 0 or false)."""
    absent = value is None or isinstance(value, Undefined | Missing)
    return instead if absent or (boolean and not value) else value


def at_end(value: str | list[object], index: int) -> object:
    if not value:
        raise RenderError("it is empty")
    return value[index]


def number_of(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError
    return text.decimal(value)


def comparison(op: str) -> Callable[..., bool]:
    return lambda value, other: compare(value, op, other, "the value", "the other")


TESTS: dict[str, Callable[..., bool]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "undefined": lambda value: isinstance(value, Undefined),
    "none": lambda value: value is None or isinstance(value, Missing),
    "boolean": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | Decimal) and not isinstance(value, bool),
    "integer": lambda value: isinstance(plain(value), int) and not isinstance(value, bool),
    "odd": lambda value: abs(_WIDE.remainder(number_of(value), Decimal(2))) == 1,
    "even": lambda value: _WIDE.remainder(number_of(value), Decimal(2)) == 0,
    "divisibleby": lambda value, num: _WIDE.remainder(number_of(value), number_of(num)) == 0,
    "lower": lambda value: str.islower(value),
    "upper": lambda value: str.isupper(value),
    "sequence": lambda value: isinstance(value, str | list | tuple | range),
    "iterable": lambda value: isinstance(value, str | list | tuple | range),
    "mapping": lambda value: isinstance(value, Row),
    "in": lambda value, seq: contains(value, seq, "the other"),
    **dict.fromkeys(("eq", "==", "equalto"), comparison("eq")),
    **dict.fromkeys(("ne", "!="), comparison("ne")),
    **dict.fromkeys(("lt", "<", "lessthan"), comparison("lt")),
    **dict.fromkeys(("le", "<="), comparison("lteq")),
    **dict.fromkeys(("gt", ">", "greaterthan"), comparison("gt")),
    **dict.fromkeys(("ge", ">="), comparison("gteq")),
}

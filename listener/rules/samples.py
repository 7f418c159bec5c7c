"""Made-up rows: whether a text can be worked out for any row at all, and how long it can get for rows of known types.

A template says what a column must be by what it does with it, so samples of every kind are tried at the column on which
it fails, alone and together with each column read before. That finds a row for any text that has one in practice.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, auto
from types import MappingProxyType
from typing import Any

from listener.errors import RenderError, TooShortError
from listener.model import Op
from listener.templates import Row

Column = tuple[str, str]
"""`("new", "balance")`, `("customer", "phone")`; `("new.order", "total")` for a key of the jsonb `new.order`."""
Render = Callable[[Mapping[str, object]], object]

_AT = datetime(2026, 11, 22, 3, tzinfo=UTC)
# keys are numbers in one ERP and codes in another
_KEYS = ("DH1001", "1001")
_NAME = "Nguyễn Thị Đoan Trường, 123 đường Trần Hưng Đạo, quận 5"
# renderings after which a text is given the benefit of the doubt
_MOST = 1500


class _Shape(Enum):
    """A sample of jsonb; what its keys hold is chosen for each, as for columns."""

    OBJECT = auto()
    LIST_OF_OBJECTS = auto()


_KINDS: tuple[object, ...] = (
    Decimal(1234567),
    _NAME,
    "1234567",
    "2026-11-22T10:00:00+07:00",
    "2026-11-22",
    "10:00:00",
    Decimal(1),
    True,
    None,
    [Decimal(1), Decimal(2)],
    ["a", "b"],
    *_Shape,
    [[Decimal(1), Decimal(2)]],
    Decimal(0),
    "",
)
# stands for any text: in no language's words
_ANYTHING = "qzxjkv"


@dataclass(slots=True)
class _Columns:
    """The columns of one row, as a mapping that notes what is read and gives the sample chosen for it."""

    owner: str
    choice: Mapping[Column, object]
    read: dict[Column, None]
    default: Callable[[Column], object]

    def __getitem__(self, column: str) -> object:
        place = (self.owner, column)
        self.read[place] = None
        sample = self.choice[place] if place in self.choice else self.default(place)
        if not isinstance(sample, _Shape):
            return sample
        inner = _Object(replace(self, owner=".".join(place)))
        return inner if sample is _Shape.OBJECT else [inner]

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1


class _Object(dict[str, object]):
    """A jsonb object that has every key."""

    def __init__(self, columns: _Columns) -> None:
        super().__init__()
        self._columns = columns

    def __missing__(self, key: str) -> object:
        return self._columns[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The names of one made-up change: which rows there are, what it is, and its key."""

    op: str
    key: str
    rows: tuple[str, ...]


def worlds_of(events: Iterable[Op], lookups: Iterable[str]) -> tuple[World, ...]:
    """A change of each of these sorts, with what was looked up for it."""
    others = tuple(lookups)
    return tuple(World(op=op.value, key=key, rows=(*op.rows, *others)) for op in events for key in _KEYS)


@dataclass(slots=True)
class _Attempt:
    """What came of one rendering: the result or the reason, and the columns read, in their order."""

    columns: list[Column]
    result: object = None
    reason: str | None = None


@dataclass(slots=True)
class Search:
    """Looks for samples with which `render` succeeds in `world`. `kinds` are the samples for a column, best first."""

    render: Render
    world: World
    kinds: Callable[[Column], Sequence[object]]
    choice: dict[Column, object] = field(default_factory=dict)
    left: int = _MOST
    # whether a sample was too short: the data may be longer than any sample
    too_short: bool = False
    # the reason that came latest in the template, and its line in the template's own code
    furthest: tuple[int, str] = (0, "")

    def attempt(self, choice: Mapping[Column, object]) -> _Attempt:
        self.left -= 1
        read: dict[Column, None] = {}
        names: dict[str, object] = {"op": self.world.op, "key": self.world.key, "at": _AT, "old": None, "new": None}
        for owner in self.world.rows:
            columns: Any = _Columns(owner, choice, read, lambda place: self.kinds(place)[0])
            names[owner] = Row(columns, owner)
        try:
            result = self.render(names)
        except RenderError as error:
            self.too_short |= isinstance(error, TooShortError)
            if (line := _line(error)) > self.furthest[0]:
                self.furthest = line, str(error)
            return _Attempt(list(read), reason=str(error))
        return _Attempt(list(read), result)

    def run(self) -> _Attempt:
        """The first rendering that succeeds, with its samples in `choice`; else one that failed."""
        tried = self.attempt(self.choice)
        while tried.reason is not None and self.left > 0:
            better = next(self._better(tried), None)
            if better is None:
                break
            self.choice, tried = better
        return tried

    def _better(self, tried: _Attempt) -> Iterator[tuple[dict[Column, object], _Attempt]]:
        """Choices that succeed or get further than `tried`."""
        if not tried.columns:
            return
        *before, last = tried.columns
        for other in (None, *reversed(before)):
            for choice in self._choices(last, other):
                if self.left <= 0:
                    return
                again = self.attempt(choice)
                if again.reason is None or len(again.columns) > len(tried.columns):
                    yield choice, again

    def _choices(self, last: Column, other: Column | None) -> Iterator[dict[Column, object]]:
        for sample in self.kinds(last):
            if other is None:
                yield {**self.choice, last: sample}
            else:
                yield from ({**self.choice, last: sample, other: beside} for beside in self.kinds(other))


def never_works(
    render: Render, worlds: Sequence[World], codes: Sequence[str], types: Mapping[Column, str] = MappingProxyType({})
) -> str | None:
    """The reason why `render` fails whatever the rows hold; None when it works for some row, or nobody can tell.

    `codes` are the codes that labels know, `types` the PostgreSQL types of columns as far as they are known.
    """
    every = (*_KINDS, *codes)

    def kinds(column: Column) -> Sequence[object]:
        return _of_type(types[column], codes) or every if column in types else every

    reason: str | None = None
    for world in worlds:
        search = Search(render, world, kinds)
        tried = search.run()
        if tried.reason is None or search.left <= 0 or search.too_short:
            return None
        reason = reason or search.furthest[1] or tried.reason
    return reason


def loosest(render: Render, worlds: Sequence[World], codes: Sequence[str]) -> Iterator[list[str]]:
    """The text of each world that a row makes, in the pieces between the values that may be any text."""
    for world in (*(replace(world, key=_ANYTHING) for world in worlds), *worlds):
        made = Search(render, world, lambda _: (_ANYTHING, *_KINDS, *codes)).run()
        if made.reason is None:
            yield re.split(_ANYTHING, str(made.result), flags=re.IGNORECASE)


def _line(error: BaseException) -> int:
    """Where in the compiled template it was raised; later lines are later pieces."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


_SIZED = re.compile(r"(?:character varying|varchar|character|bpchar|char)\((\d+)\)")
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
# by the catalogue's names and by the short ones
_WIDEST: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("smallint", "int2"), (Decimal(-32768),)),
    **dict.fromkeys(("integer", "int4"), (Decimal(-2147483648),)),
    **dict.fromkeys(("bigint", "int8"), (Decimal(-9223372036854775808),)),
    # without a precision: as much money as there is
    "numeric": (Decimal("-999999999999999.99"),),
    **dict.fromkeys(("boolean", "bool"), (False, True)),
    "date": ("2026-12-31",),
    **dict.fromkeys(("timestamp without time zone", "timestamp"), ("2026-12-31T23:59:59.999999",)),
    **dict.fromkeys(("timestamp with time zone", "timestamptz"), ("2026-12-31T23:59:59.999999+07:00",)),
    **dict.fromkeys(("time without time zone", "time"), ("23:59:59.999999",)),
    "uuid": ("00000000-0000-0000-0000-000000000000",),
}
_TEXTS = frozenset({"text", "character varying", "varchar", "character", "bpchar", "citext", "name"})
# longer than any SMS, so that only a text that shortens it stays short
_ENDLESS = 2000


def widest(kind: str, letter: str) -> tuple[object, ...] | None:
    """The longest values of a PostgreSQL type (`varchar(40)`, `numeric(18,2)`); None when it has no longest one.

    Texts are made of `letter`.
    """
    if sized := _SIZED.fullmatch(kind):
        return (letter * min(int(sized[1]), _ENDLESS),)
    if number := _NUMERIC.fullmatch(kind):
        digits, places = int(number[1]), int(number[2])
        return (Decimal((1, (9,) * digits, -places)),)
    return _WIDEST.get(kind)


def is_text(kind: str) -> bool:
    """Whether a PostgreSQL type holds text of any sort."""
    return kind in _TEXTS or _SIZED.fullmatch(kind) is not None


def _of_type(kind: str, codes: Sequence[str]) -> Sequence[object]:
    """What a column of a PostgreSQL type may hold; nothing for a type that is not known here."""
    if is_text(kind):
        return (*(sample for sample in _KINDS if isinstance(sample, str)), *codes, None)
    values = widest(kind, "W")
    if values is None:
        return ()
    if not isinstance(values[0], Decimal):
        return (*values, None)
    return (Decimal(1234567), Decimal(1), Decimal(0), *values, *(Decimal(c) for c in codes if c.isdecimal()), None)


def longest(
    render: Callable[[Mapping[str, object]], str],
    world: World,
    types: Mapping[Column, str],
    codes: Sequence[str],
    size: Callable[[str], int],
    *,
    letter: str,
    endless: bool,
) -> tuple[str, list[Column]] | None:
    """The text of the greatest `size` found for rows of these types, and the columns that it would grow with.

    With `endless` columns without a longest value hold very much text, else about 20 characters. None when no row could
    be found.
    """

    def kinds(column: Column) -> Sequence[object]:
        known = widest(types.get(column, ""), letter)
        return (*(known or (letter * (_ENDLESS if endless else 20),)), *codes, *_KINDS)

    search = Search(render, world, kinds)
    best = search.run()
    if best.reason is not None:
        return None
    for column in best.columns:
        for sample in (*kinds(column)[:1], *codes):
            if search.left <= 0:
                break
            again = search.attempt({**search.choice, column: sample})
            if again.reason is None and size(str(again.result)) > size(str(best.result)):
                best, search.choice = again, {**search.choice, column: sample}

    def grows_with(column: Column) -> bool:
        """What the text shortens, turns into a date or a word of `labels`, or only asks about does not lengthen it."""
        if widest(types.get(column, ""), letter) is not None:
            return False
        less = search.attempt({**search.choice, column: letter * (_ENDLESS // 2 if endless else 10)})
        return less.reason is None and size(str(less.result)) < size(str(best.result))

    return str(best.result), [column for column in best.columns if grows_with(column)]

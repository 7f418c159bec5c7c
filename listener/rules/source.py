"""YAML text to plain data that still knows its lines and columns.

Only parser events of PyYAML are used, never its constructors: nothing in a file can make an object, and each limit is
kept while reading. Plain scalars follow YAML 1.2's core schema, narrowed to what cannot surprise: `on`, `no`, `21:30`,
`0123456789`, `010`, `+49151234567`, `1e3` and `2026-01-02` are text. Numbers are `int`, or `Decimal` with a fraction.
"""

import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml

from listener.errors import Fault, RulesError
from listener.rules.complaints import MAX_DEPTH, QUOTE, QUOTE_BRACES, STRAY, TOO_DEEP, complaints

MAX_BYTES = 1_000_000
MAX_NODES = 40_000  # keys, values, lists and mappings together; about 500 rules with their tests
MAX_ALIASED = 1_000  # nodes that all `*name` together stand for
_SHORTEN = "remove old tests, or put them into a file of their own: `listener test rules.yaml tests.yaml`"

Keys = tuple[str | int, ...]
"""The way to a value: `("rules", "low_balance", "to", 0)`."""

# libyaml where the wheel has it: twenty times faster, and linear where the Python scanner is quadratic.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What YAML calls printable, but for U+FEFF, which is a stray byte order mark anywhere behind the start, and for U+0085,
# U+2028 and U+2029: the parser counts them as line ends and an editor does not, so later places would be wrong.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# Where YAML wants a blank: before the first word of a line, and around the colon behind it.
_ODD = "[\u00a0\u1680\u2000-\u200f\u202f\u205f\u2060\u3000]"
_ODD_BLANK = re.compile(
    rf"(?:^[ \t]*(?:-[ \t]*)?|\{{[ \t]*(?=\w+:))(?:\w+[ \t]*(?=:|{_ODD}+[ \t]*:)(?::[ \t]*)?)?({_ODD})", re.MULTILINE
)
# To YAML a comment; with a value in it and no blank behind its #, to who wrote it the rest of a text.
_CUT_OFF = re.compile(r"[ \t]+#(?=\S).*\{\{")
_ANEW = "delete it and press the space bar"
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,99})\.[0-9]{1,100}")
_WORDS: dict[str, bool | None] = {
    "": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value of the file. A mapping keeps, for each key, the key's own place."""

    line: int
    col: int
    value: "str | int | Decimal | bool | list[Node] | dict[str, tuple[tuple[int, int], Node]] | None"
    size: int = 1

    def plain(self) -> Any:
        """dict, list, str, int, Decimal, bool or None, all the way down."""
        match self.value:
            case dict(entries):
                return {key: node.plain() for key, (_, node) in entries.items()}
            case list(items):
                return [node.plain() for node in items]
            case scalar:
                return scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file, read: its data, where each piece stands, and the faults that did not stop the reading."""

    file: str
    root: Node
    faults: list[Fault] = field(default_factory=list)
    odd_blanks: list[Fault] = field(default_factory=list)
    """Told in place of all other faults, if there are any: to YAML such a blank is a letter, so they follow from it."""

    @property
    def data(self) -> Any:
        return self.root.plain()

    def position(self, keys: Keys, *, key: bool = False) -> tuple[int, int]:
        """1-based line and column of the value at `keys`, or of its key.

        A list or mapping is shown by its key, since it begins on a line below. Where they lead on past the file
        (a missing key, or an item of what the file writes as one word), the nearest thing above it is shown.
        """
        node, place, at_key = self.root, (self.root.line, self.root.col), False
        for step in keys:
            match node.value:
                case dict(entries) if step in entries:
                    place, node = entries[str(step)]
                    at_key = True
                case list(items) if isinstance(step, int) and step < len(items):
                    node = items[step]
                    place, at_key = (node.line, node.col), False
                case _:
                    break
        collection = isinstance(node.value, dict | list)
        return place if collection or (key and at_key) else (node.line, node.col)

    def fault(self, keys: Keys, message: str, hint: str = "", *, key: bool = False) -> Fault:
        line, col = self.position(keys, key=key)
        return Fault(file=self.file, line=line, col=col, message=message, hint=hint)


def read_text(path: Path) -> str:
    """The file's text. Raises `RulesError` when it is absent, unreadable, no file, too big or not UTF-8."""

    def refuse(message: str, hint: str = "", line: int = 1, col: int = 1) -> NoReturn:
        raise RulesError([Fault(file=str(path), line=line, col=col, message=message, hint=hint)])

    try:
        # Asked before opening: to open a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            refuse("this is not a file", "give the path of a rules file")
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        refuse("there is no such file", "look at the path, or set LISTENER_RULES")
    except OSError as error:
        refuse(f"the file cannot be read: {error.strerror}", "let the user that runs listener read it")
    except ValueError:
        refuse("the file cannot be read: its path is not valid", "look at the path, or set LISTENER_RULES")
    if len(raw) > MAX_BYTES:
        refuse(f"the file is larger than {MAX_BYTES:,} bytes", _SHORTEN)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", "replace")
        line, col = _place(before, len(before))
        return refuse("the file is not UTF-8 text", "save it again with the encoding UTF-8", line, col)


def load(text: str, file: str) -> Source:
    """Reads one YAML document. Raises `RulesError` when it cannot be read to its end."""
    text = text.removeprefix("\ufeff")

    def refuse(message: str, hint: str, line: int = 1, col: int = 1) -> NoReturn:
        raise RulesError([Fault(file=file, line=line, col=col, message=message, hint=hint)])

    # A character is at least a byte: the cheap question first.
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        refuse(f"the file is larger than {MAX_BYTES:,} bytes", _SHORTEN)
    if odd := _UNPRINTABLE.search(text):
        line, col = _place(text, odd.start())
        refuse(f"an invisible character U+{ord(odd.group()):04X} stands here", "delete it", line, col)
    composer = _Composer(yaml.parse(text, Loader=_LOADER), file, text.splitlines())
    try:
        root = composer.document()
    except yaml.MarkedYAMLError as error:
        if odd_blanks := _odd_blanks(text, file, composer.text_lines):
            raise RulesError(odd_blanks) from None
        faults = [_at(file, *told) for told in complaints(error, text)]
        # `text: {{ x }} and more` is noted at its brace; where the parser then gave up is no second fault.
        if any(noted.line == faults[0].line for noted in composer.faults):
            raise RulesError(composer.faults) from None
        raise RulesError([*composer.faults, *faults]) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # The Python scanner hands escapes such as \UFFFFFFFF to chr() unchecked.
        raise RulesError([*composer.faults, _at(file, (1, 1), "a \\ escape is not a character", "remove it")]) from None
    return Source(file=file, root=root, faults=composer.faults, odd_blanks=_odd_blanks(text, file, composer.text_lines))


def _odd_blanks(text: str, file: str, text_lines: Collection[int]) -> list[Fault]:
    """Blanks that came with a copy from a web page or Word: to the eye like any other. In a text they are no fault."""
    found = islice(_ODD_BLANK.finditer(text), 100) if not text.isascii() else ()
    return [
        _at(file, place, f"the blank here is no ordinary one, but U+{ord(odd[1]):04X}", _ANEW)
        for odd in found
        if (place := _place(text, odd.start(1)))[0] not in text_lines
    ]


def _at(file: str, place: tuple[int, int], message: str, hint: str) -> Fault:
    return Fault(file=file, line=place[0], col=place[1], message=message, hint=hint)


def _start(event: yaml.Event) -> tuple[int, int]:
    mark: Any = event.start_mark  # never None from a parser, whatever its type says
    return mark.line + 1, mark.column + 1


def _is_blank(event: yaml.Event) -> bool:
    """Nothing was written, not even quotes."""
    start, end = event.start_mark, event.end_mark
    return isinstance(event, yaml.ScalarEvent) and (start and start.index) == (end and end.index)


def _place(text: str, index: int) -> tuple[int, int]:
    lines = text[:index].splitlines(keepends=True) or [""]
    return (len(lines) + 1, 1) if lines[-1].endswith(("\n", "\r")) else (len(lines), len(lines[-1]) + 1)


class _StopError(Exception):
    """The document is beyond a limit; its fault is already noted."""


class _Composer:
    """Events to nodes. What can be passed over is noted in `faults` and reading goes on."""

    def __init__(self, events: "Iterator[yaml.Event]", file: str, lines: list[str]) -> None:
        self.faults: list[Fault] = []
        # numbers of the lines that hold nothing but text in quotes or behind | or >
        self.text_lines: set[int] = set()
        self._lines = lines
        self._events = events
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self._aliased = 0

    def document(self) -> Node:
        try:
            return self._document()
        except _StopError:
            raise RulesError(self.faults) from None

    def _document(self) -> Node:
        event = self._next()
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            self._empty()
        root = self._node(event, depth=1)
        self._next()
        if not isinstance(end := self._next(), yaml.StreamEndEvent):
            self._stop(end, "a second document begins here", "remove the `---` line")
        if root.value is None:
            self._empty()
        return root

    def _empty(self) -> NoReturn:
        self.faults.append(_at(self._file, (1, 1), "the file is empty", "begin with `version: 1`"))
        raise _StopError

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _note(self, event: yaml.Event, message: str, hint: str) -> None:
        # A thousand like faults help nobody; the reading goes on without them.
        if len(self.faults) < 100:
            self.faults.append(_at(self._file, _start(event), message, hint))

    def _stop(self, event: yaml.Event, message: str, hint: str) -> NoReturn:
        self.faults.append(_at(self._file, _start(event), message, hint))
        raise _StopError

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(event, f"the file holds more than {MAX_NODES:,} values", _SHORTEN)
        if depth > MAX_DEPTH:
            self._stop(event, TOO_DEEP, STRAY)
        match event:
            case yaml.AliasEvent():
                return self._alias(event)
            case yaml.ScalarEvent():
                node = self._scalar(event)
            case yaml.SequenceStartEvent():
                node = self._sequence(event, depth)
            case yaml.MappingStartEvent():
                node = self._mapping(event, depth)
            case _:
                raise AssertionError(f"no value begins with {type(event).__name__}")
        if event.tag is not None:
            self._note(event, "a value cannot begin with ! (a YAML tag)", "remove it, or quote the text")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            self._note(event, "a value that begins with * names something not written above it", QUOTE)
            line, col = _start(event)
            return Node(line=line, col=col, value=None)
        self._aliased += node.size
        if self._aliased > MAX_ALIASED:
            self._stop(event, f"*names repeat more than {MAX_ALIASED:,} values", "write the values out")
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        text: str = event.value
        value: str | int | Decimal | bool | None = text
        start: Any = event.start_mark
        end: Any = event.end_mark
        if event.style in ("|", ">", "'", '"'):
            self.text_lines.update(range(start.line + 2, end.line + (1 if event.style in "|>" else 2)))
        if event.implicit[0]:
            if end.line < len(self._lines) and _CUT_OFF.match(self._lines[end.line], end.column):
                self._note(event, "the # in this text begins a comment: what follows is left out", QUOTE_BRACES)
            if text == "~":
                self._note(event, "~ is unclear", 'write null for nothing, or "~" for the character')
                value = None
            elif text in _WORDS:
                value = _WORDS[text]
            elif _INTEGER.fullmatch(text):
                value = int(text)
            elif _FRACTION.fullmatch(text):
                value = Decimal(text)
        elif odd := _UNPRINTABLE.search(text):
            self._note(event, f"an escape stands for U+{ord(odd.group()):04X}, which no SMS can hold", "remove it")
        line, col = _start(event)
        return Node(line=line, col=col, value=value)

    def _sequence(self, event: yaml.SequenceStartEvent, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(inner := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
        size = 1 + sum(node.size for node in items)
        line, col = _start(event)
        return Node(line=line, col=col, value=items, size=size)

    def _mapping(self, event: yaml.MappingStartEvent, depth: int) -> Node:
        entries: dict[str, tuple[tuple[int, int], Node]] = {}
        size = 1
        readable = True
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            self._node(key, depth + 1)
            event_of_value = self._next()
            value = self._node(event_of_value, depth + 1)
            size += 1 + value.size
            if _is_blank(event_of_value):
                # What is not there is to be mended where it was announced.
                line, col = _start(key)
                value = replace(value, line=line, col=col)
            if not isinstance(key, yaml.ScalarEvent):
                hint = QUOTE_BRACES if event.flow_style else "a key is one word"
                self._note(event if event.flow_style else key, "a list or mapping stands where a key should", hint)
                readable = readable and not event.flow_style
            elif key.value == "<<" and key.implicit[0]:
                self._note(key, "<< (merge) is not used here", "write the keys out, or put them under defaults:")
            elif key.value in entries:
                line = entries[key.value][0][0]
                self._note(key, f"duplicate key: it stands on line {line} already", "keep one of the two")
            else:
                entries[key.value] = _start(key), value
        line, col = _start(event)
        return Node(line=line, col=col, value=entries if readable else None, size=size)

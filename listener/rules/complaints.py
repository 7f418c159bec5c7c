"""What the YAML parser complains of, told to a person."""

import re
from dataclasses import dataclass

import yaml

MAX_DEPTH = 30  # of lists and mappings in one another
TOO_DEEP = f"lists and mappings are nested more than {MAX_DEPTH} deep"
STRAY = "look for a stray [ or {"
QUOTE = 'put text that holds : # { } [ ] & * ! | > % or @ in "double quotes"'
QUOTE_BRACES = 'put text with {{ }} in "double quotes"'

_COLON = re.compile(r":(?=\s|$)")
_INDENTING_TAB = re.compile(r" *\t(?=\s*[^\s#])")

_TAB = "a tab indents this line"
_SPACES = "indent with spaces"
_PAIR = "write `word: value`, with a blank after the colon"

Told = tuple[tuple[int, int], str, str]
"""Line and column (from 1), what is wrong there, and how to mend it."""


@dataclass(frozen=True, slots=True)
class _Complaint:
    """How one of the parser's complaints, by a piece of its text, is told to a person."""

    piece: str
    message: str
    hint: str
    at_start: bool = False  # the place to mend is where the construct began


_COMPLAINTS = (
    _Complaint("tab character", _TAB, _SPACES),
    _Complaint("unexpected end of stream", "a quote is opened here and never closed", "close the quote", at_start=True),
    _Complaint("unexpected document separator", "a quote is opened here and never closed", "close it", at_start=True),
    _Complaint("nesting depth", TOO_DEEP, STRAY),
    _Complaint("',' or ']'", "a [ list opens here and is not closed", "close it with ]", at_start=True),
    _Complaint("',' or '}'", "a { mapping opens here and is not closed", f"close it with }}; {QUOTE}", at_start=True),
    _Complaint("expected ':'", "a `:` is missing after this word", _PAIR, at_start=True),
    _Complaint("escape", 'a backslash in "double quotes" is not followed by a known letter', "write \\\\ for one \\"),
    _Complaint("hex", 'a backslash in "double quotes" is not followed by a known letter', "write \\\\ for one \\"),
    _Complaint("entries are not allowed", "a `- ` list item cannot begin here", "begin it on a line of its own"),
    _Complaint("cannot start any token", "a value cannot begin with this character", QUOTE),
    _Complaint("alphabetic or numeric", "a value cannot begin with & or *", QUOTE, at_start=True),
    _Complaint("tag", "a value cannot begin with !", QUOTE),
    _Complaint("incompatible YAML document", "this YAML version is not known", "remove the %YAML line"),
    _Complaint("", "this line does not fit the lines around it", f"indent sister keys alike; {QUOTE}"),
)


def complaints(error: yaml.MarkedYAMLError, text: str) -> list[Told]:
    """What stopped the parser; after a tab also the other lines that one indents: who has one of them has many."""
    lines = text.splitlines()
    first = _complaint(error, lines)
    return list(dict.fromkeys([first, *_tabs(lines)])) if _TAB in first else [first]


def _complaint(error: yaml.MarkedYAMLError, lines: list[str]) -> Told:
    problem = error.problem or ""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return (1, 1), "this is not YAML", "compare it with the example in the README"
    line = lines[mark.line] if mark.line < len(lines) else ""
    if found := _INDENTING_TAB.match(line):
        return (mark.line + 1, found.end()), _TAB, _SPACES
    complaint = next(c for c in _COMPLAINTS if c.piece in problem)
    begun = error.context_mark
    in_brackets = "expected ','" in problem and begun is not None and begun.line == mark.line
    if ("mapping values" in problem or in_brackets) and line[mark.column : mark.column + 1] == ":":
        return _stray_colon(lines, mark.line, mark.column)
    if in_brackets:
        word = line[: mark.column].rpartition(" ")[0]
        return (mark.line + 1, len(word) + 2), "this does not fit the [ ] or { } around it", QUOTE
    if complaint.at_start and begun is not None:
        mark = begun
    hint = QUOTE_BRACES if "{{" in line and QUOTE in complaint.hint else complaint.hint
    return (mark.line + 1, mark.column + 1), complaint.message, hint


def _tabs(lines: list[str]) -> list[Told]:
    found = ((number, _INDENTING_TAB.match(line)) for number, line in enumerate(lines, 1))
    return [((number, tab.end()), _TAB, _SPACES) for number, tab in found if tab][:100]


def _stray_colon(lines: list[str], index: int, column: int) -> Told:
    """For a `:` that cannot stand where it does: it is one too many, or the lines above are at fault."""
    line = lines[index]
    if line.lstrip().startswith("- ") or _COLON.search(line[:column]):
        return (index + 1, column + 1), "a second `:` in one value", QUOTE_BRACES if "{{" in line else QUOTE
    written = (i for i in reversed(range(index)) if lines[i].strip() and not lines[i].lstrip().startswith("#"))
    above = next(written, index)
    if above == index or _COLON.search(lines[above]):
        indent = len(line) - len(line.lstrip())
        return (index + 1, indent + 1), "this line stands deeper than the value above it", "indent sister keys alike"
    word = len(lines[above]) - len(lines[above].lstrip(" -"))
    return (above + 1, word + 1), "a `:` is missing after this word", _PAIR

"""Registered wordings: `ACME: TK {so} con {tien} VND`, where each `{…}` stands for one character or more.

Carriers compare what is sent with the wording that was registered for the brand name, character by character.
"""

import re
from collections.abc import Iterable, Sequence

_BLANK = re.compile(r"\{[^{}]*\}")


def is_approved(text: str, wordings: Iterable[str]) -> bool:
    """Whether `text` is one of `wordings` with its blanks filled in. Linear in the text for each wording."""
    return any(_fits(text, _BLANK.split(wording.strip())) for wording in wordings)


def could_be_approved(pieces: Sequence[str], wordings: Iterable[str]) -> bool:
    """Whether a text of these pieces, with anything or nothing between them, can be one of `wordings`."""
    return any(_meet(pieces, _BLANK.split(wording.strip())) for wording in wordings)


def _meet(pieces: Sequence[str], wording: Sequence[str]) -> bool:
    """Whether one text fits both; a gap of `wording` holds one character or more, a gap of `pieces` also none."""
    # a gap is None, and where a gap must hold something a lone gap stands behind any one character
    ours = _with_gaps(pieces)
    theirs = _with_gaps(wording)
    reached, coming = set[tuple[int, int, bool]](), {(0, 0, False)}
    while coming:
        i, j, begun = state = coming.pop()
        if state in reached:
            continue
        reached.add(state)
        here, there = ours[i] if i < len(ours) else "", theirs[j] if j < len(theirs) else ""
        if here == there == "":
            return True
        if here is None:
            coming.add((i + 1, j, begun))
        if there is None and begun:
            coming.add((i, j + 1, False))
        # one character of the text, which both sides take
        if (here is None or there is None or here == there) and here != "" and there != "":
            coming.add((i if here is None else i + 1, j if there is None else j + 1, there is None))
    return False


def _with_gaps(pieces: Sequence[str]) -> list[str | None]:
    first, *rest = pieces
    return [*first, *(char for piece in rest for char in (None, *piece))]


def _fits(text: str, pieces: list[str]) -> bool:
    first, *rest = pieces
    if not rest:
        return text == first
    *middle, last = rest
    if not text.startswith(first) or not text.endswith(last):
        return False
    at = len(first)
    for piece in middle:
        # The leftmost place is never worse: what is left for the pieces behind it is longest.
        found = text.find(piece, at + 1)
        if found < 0:
            return False
        at = found + len(piece)
    return at < len(text) - len(last)

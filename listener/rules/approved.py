"""Registered wordings: `ACME: TK {so} con {tien} VND`, where each `{…}` stands for one character or more.

Carriers compare what is sent with the wording that was registered for the brand name, character by character.
"""

import re
from collections.abc import Iterable

_BLANK = re.compile(r"\{[^{}]*\}")


def is_approved(text: str, wordings: Iterable[str]) -> bool:
    """Whether `text` is one of `wordings` with its blanks filled in. Linear in the text for each wording."""
    return any(_fits(text, _BLANK.split(wording.strip())) for wording in wordings)


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

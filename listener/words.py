"""Small helps for sentences that people read."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """`; did you mean X?` or nothing when no known word is at least so like it (0 to 1)."""
    near = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""


# as people write them, amid other words; not a piece of a longer number, of an address or of a time
_PHONE = re.compile(r"(?<![\w.])(?:\+?84|0)[ .-]?\d(?:[ .-]?\d){7,9}(?![\w.]*\d)")


def mask_phones(text: str) -> str:
    """A text in which phones are `091***678`."""
    return _PHONE.sub(lambda m: m[0][:3] + "***" + m[0][-3:], text)

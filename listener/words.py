"""Small helps for sentences that people read."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """`; did you mean X?` or nothing when no known word is at least so like it (0 to 1)."""
    near = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""

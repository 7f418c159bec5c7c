"""Small helps for sentences that people read."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from difflib import get_close_matches
from unicodedata import normalize
from zoneinfo import ZoneInfo

# the clocks that people are shown times by; the database and JSON keep theirs with the zone
LOCAL = ZoneInfo("Asia/Ho_Chi_Minh")


def moment(at: datetime) -> str:
    """22/11/2026 10:00:05 on Vietnam's clocks."""
    return at.astimezone(LOCAL).strftime("%d/%m/%Y %H:%M:%S")


def nearest(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name most like `word`, in whatever case; None where none is at least so like it (0 to 1)."""
    as_written = {name.casefold(): name for name in known}
    # The comparison is quadratic in the word, and a hostile file has long ones.
    near = get_close_matches(word[:60].casefold(), as_written, n=1, cutoff=likeness)
    return as_written[near[0]] if near else None


def alike(word: str, known: Collection[str]) -> str:
    """`did you mean X?`, or nothing. Two that differ in nothing to the eye (nor in SQL's quotes) are told apart."""
    letters = word.replace('"', "")
    for name in known:
        other = name.replace('"', "")
        if other != letters and normalize("NFC", other) == normalize("NFC", letters):
            return f"its accents are put together otherwise there: copy the name from here, {name}"
    near = nearest(word, known)
    return f"did you mean {near}?" if near else ""


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The same for the end of a message."""
    hint = alike(word, known)
    return f"; {hint}" if hint else ""


def counted(n: int, noun: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# What stands between the digits of a phone, as people write it and programs paste it: blanks that do not break, and
# dashes that are no hyphen, too. PostgreSQL reads it likewise.
_BETWEEN = r"\s\u00a0\u00ad\u00b7\u2007\u200b-\u200d\u2010-\u2015\u202f\u2060.-"
GAP = rf"[(){_BETWEEN}]"
# as people write them, amid other words; not a piece of a longer number, of an address or of a time
_PHONE = re.compile(rf"(?<![\w.])(?:(?:\+|00)?84|0){GAP}{{0,3}}\d(?:{GAP}{{0,2}}\d){{7,9}}(?![\w.]*\d)")


def mask_phones(text: str) -> str:
    """A text in which phones are `091***678`."""
    return _PHONE.sub(lambda m: m[0][:3] + "***" + m[0][-3:], text)


_LONG_NUMBER = re.compile(rf"\+?\d[\d{_BETWEEN}]{{6,}}\d")


def mask_numbers(text: str) -> str:
    """Somebody else's words, of which any long number may be a phone, without the middle of each."""
    # A bracket ends a number, but stands in many a phone: (0912) 345 678.
    return _LONG_NUMBER.sub(_without_middle, mask_phones(text))


def _without_middle(number: re.Match[str]) -> str:
    digits = sum(map(str.isdigit, number[0]))
    return f"{number[0][:3]}***{number[0][-3:]}" if digits >= 9 else "***"

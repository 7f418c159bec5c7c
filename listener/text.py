"""SMS text: clean it, take its accents off, count its parts, and write numbers and dates as Vietnam does.

Lengths here are in code points unless a name says units. A unit is a septet in GSM-7 and a UTF-16 code unit in UCS-2.
Sources: 3GPP TS 23.038 (the GSM-7 alphabet) and TS 23.040 section 9.2.3.24.1 (segments).
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import StrEnum
from itertools import pairwise
from math import ceil
from zoneinfo import ZoneInfo

from listener.errors import RenderError

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("^{}\\[]~|€\f")
_GSM = GSM_BASIC | GSM_EXTENSION
# what an SMS without accents may hold
PLAIN = frozenset(c for c in _GSM if c.isascii())

_REPLACEMENTS = {
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‘’‚‛′´ʼ`", "'"),
    **dict.fromkeys("‐‑‒–—―−•·", "-"),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    "\uff40": "'",  # the full-width backtick, which is no more GSM-7 than the plain one
    "…": "...",
    "×": "x",
    **dict.fromkeys("⁄∕", "/"),
    "₫": "VND",
    "ð": "đ",
    "Ð": "Đ",
    "ɖ": "đ",
    "Ɖ": "Đ",
    "\n": "\n",
    "\t": " ",
}
_VARIATION_SELECTORS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x1810)]))


class _Translation(dict[int, str]):
    """A table for str.translate that works each character out when it is first met.

    Only the Basic Multilingual Plane is remembered, so hostile text cannot make the table grow without end.
    """

    def __missing__(self, code: int) -> str:
        result = self.translated(chr(code))
        if code < 0x10000:
            self[code] = result
        return result

    def translated(self, char: str) -> str:
        raise NotImplementedError


class _Cleaning(_Translation):
    def translated(self, char: str) -> str:
        known = _REPLACEMENTS.get(char)
        if known is not None:
            return known
        category = unicodedata.category(char)
        if category in ("Zs", "Zl", "Zp"):
            return " "
        if category in ("Cc", "Cf", "Cs") or char in _VARIATION_SELECTORS:
            return ""
        return char


# where a character was that has no plain form; `clean` leaves none in a text
_LOST = "\0"
_LOST_BETWEEN_DIGITS = re.compile(rf"(?<=[0-9]){_LOST}+(?=[0-9])")
_PLAIN_FORMS = {"đ": "d", "Đ": "D", "€": "EUR", "²": "2", "³": "3"}


class _Unaccenting(_Translation):
    def translated(self, char: str) -> str:
        # đ has no decomposition: a mere NFD would lose it ("Đặng" would become "ang").
        # And 16 m³ of water or 50 m² of land would become 16 m and 50 m.
        if char in _PLAIN_FORMS:
            return _PLAIN_FORMS[char]
        # and 1½ kg 1 kg, or 11/2 kg without what leaves a blank between two digits
        if "\u2044" in (fraction := unicodedata.normalize("NFKC", char)):
            return _LOST + fraction.replace("\u2044", "/")
        plain = "".join(part for part in unicodedata.normalize("NFD", char) if part in PLAIN)
        return plain if plain or unicodedata.combining(char) else _LOST


_CLEANING = _Cleaning()
_UNACCENTING = _Unaccenting()


def clean(s: str) -> str:
    """The text in NFC, without what silently turns a plain SMS into a dear one; accents, emoji and spaces stay.

    Typographic quotes, dashes, spaces and full-width forms become ASCII; CR LF and CR become LF; invisible and control
    characters but LF, and lone surrogates, are dropped. Idempotent.
    """
    s = unicodedata.normalize("NFC", s.replace("\r\n", "\n").replace("\r", "\n"))
    # Twice, because dropping a zero-width character can bring a letter and its mark together.
    return unicodedata.normalize("NFC", s.translate(_CLEANING))


def unaccent(s: str) -> str:
    """`clean`, then ASCII that is also GSM-7: letters lose their marks, `€` becomes EUR, m³ m3, 1½ 1 1/2.

    The rest is dropped; between two digits it leaves a blank: a price that went 100→90 did not become 10090.
    """
    plain = clean(s).translate(_UNACCENTING)
    return _LOST_BETWEEN_DIGITS.sub(" ", plain).replace(_LOST, "") if _LOST in plain else plain


def shorten(s: str, n: int) -> str:
    """At most `n` letters, each with its marks in one: `s` itself, or its beginning with "..." for what is left out."""
    if n < 0:
        raise RenderError("shorten needs a length of 0 or more")
    if len(s) <= n:
        return s
    s = unicodedata.normalize("NFC", s)
    if len(s) <= n:
        return s
    return s[: n - 3].rstrip() + "..." if n > 3 else "..."[:n]


class Encoding(StrEnum):
    GSM_7 = "GSM-7"
    UCS_2 = "UCS-2"


class Accents(StrEnum):
    """The carriers' own two classes, which are not the standard's: `à` is GSM-7 and yet accented."""

    UNACCENTED = "unaccented"
    ACCENTED = "accented"


def rising(row: Sequence[int]) -> bool:
    """Whether each number is larger than the one before it."""
    return all(earlier < later for earlier, later in pairwise(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTable:
    """The most units that go into 1, 2, 3... parts, as a carrier bills them; past the end the standard's step goes on.

    Raises ValueError unless both rows are `rising`, positive and not empty.
    """

    unaccented: tuple[int, ...] = (160, 306, 459, 612)
    accented: tuple[int, ...] = (70, 134, 201, 268)

    def __post_init__(self) -> None:
        for row in (self.unaccented, self.accented):
            if not row or row[0] <= 0 or not rising(row):
                raise ValueError("a table of parts needs rising, positive lengths")

    def parts(self, accents: Accents, units: int) -> int:
        """How many parts a text of so many units is billed as; 0 for an empty one."""
        row, step = (self.unaccented, 153) if accents is Accents.UNACCENTED else (self.accented, 67)
        if units == 0:
            return 0
        for parts, most in enumerate(row, 1):
            if units <= most:
                return parts
        return len(row) + ceil((units - row[-1]) / step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How long a text is: by the standard (encoding, units, segments) and by the carrier (accents, ...)."""

    encoding: Encoding
    units: int
    segments: int
    accents: Accents
    carrier_units: int
    carrier_parts: int

    @property
    def parts(self) -> int:
        """What to bill: neither count alone is safe, a carrier may go by either."""
        return max(self.segments, self.carrier_parts)


DEFAULT_PARTS = PartTable()


def count(text: str, table: PartTable = DEFAULT_PARTS) -> Count:
    """Count `text` exactly as it stands: clean it first. An empty text has 0 parts and must not be sent."""
    letters = frozenset(text)
    utf16_units = len(text) + sum(char > "\uffff" for char in text) if not text.isascii() else len(text)
    if letters <= _GSM:
        encoding, single, step = Encoding.GSM_7, 160, 153
        wide = letters & GSM_EXTENSION
        units = len(text) + sum(text.count(char) for char in wide)
    else:
        encoding, single, step = Encoding.UCS_2, 70, 67
        wide = frozenset(char for char in letters if char > "\uffff")
        units = utf16_units
    accents = Accents.UNACCENTED if letters <= PLAIN else Accents.ACCENTED
    carrier_units = units if accents is Accents.UNACCENTED else utf16_units
    return Count(
        encoding=encoding,
        units=units,
        segments=_segments(text, units, wide, single, step),
        accents=accents,
        carrier_units=carrier_units,
        carrier_parts=table.parts(accents, carrier_units),
    )


def _segments(text: str, units: int, wide: frozenset[str], single: int, step: int) -> int:
    if units <= single:
        return 1 if units else 0
    if not wide:
        return ceil(units / step)
    # A character of two units may not be cut in the middle, so its segment may end one unit early.
    segments, used = 1, 0
    for char in text:
        cost = 2 if char in wide else 1
        if used + cost > step:
            segments, used = segments + 1, 0
        used += cost
    return segments


MAX_DIGITS = 400
"""Numbers with more digits before or after the point are refused; PostgreSQL's double precision needs 308."""

# A text 90.000 is ninety thousand to whoever typed it and ninety to a program: it is no amount to tell a customer.
_NUMERIC = re.compile(r"(?![+-]?[1-9][0-9]{0,2}\.[0-9]{3}\Z)[+-]?[0-9]+(?:\.[0-9]*)?", re.ASCII)
_ROUNDING = Context(prec=2 * MAX_DIGITS + 2, rounding=ROUND_HALF_UP)
_SWAP_SEPARATORS = str.maketrans(",.", ".,")


def decimal(value: object) -> Decimal:
    """The exact number in a Decimal, an int or plain digits in a text ("1234567.00").

    Raises RenderError for anything else: NULL, NaN, infinity, a float, a bool, a text such as "90.000", or more digits
    than MAX_DIGITS.
    The error never quotes the value, which may be personal.
    """
    match value:
        case Decimal():
            result = value
        case bool():
            raise RenderError("a true/false value is not a number")
        case int():
            result = Decimal(value)
        case str() if len(value) <= 2 * MAX_DIGITS and _NUMERIC.fullmatch(value.strip()):
            result = Decimal(value.strip())
        case str():
            raise RenderError("the text is not a plain number such as 1234567.89")
        case None:
            raise RenderError("NULL is not a number")
        case _:
            raise RenderError(f"a value of type {type(value).__name__} is not an exact number")
    if not result.is_finite():
        raise RenderError("NaN or infinity is not a number to show")
    exponent = result.as_tuple().exponent
    if result.adjusted() >= MAX_DIGITS or (isinstance(exponent, int) and exponent < -MAX_DIGITS):
        raise RenderError(f"the number has more than {MAX_DIGITS} digits")
    return result


def has_unclear_dot(number: Decimal) -> bool:
    """Whether it was written as 100.000, a hundred thousand to the person who writes it and a hundred to a program."""
    return number.as_tuple().exponent == -3 and abs(number) >= 1


UNCLEAR_DOT = "it is unclear whether the dot parts thousands"
WITHOUT_DOT = "write 100000 without it, or 100.0000 for a fraction"


def number(value: object, places: int = 0) -> str:
    """`1.234.567,5`: a dot after thousands, a comma before decimals, rounded half up, never "-0".

    `places` is how many decimals, 0 to 20. Raises RenderError as `decimal` does.
    """
    if not 0 <= places <= 20:
        raise RenderError("a number can have 0 to 20 decimals")
    rounded = decimal(value).quantize(Decimal(1).scaleb(-places), context=_ROUNDING)
    return f"{rounded.copy_abs() if rounded.is_zero() else rounded:,f}".translate(_SWAP_SEPARATORS)


def vnd(value: object) -> str:
    """`1.234.567 VND`, rounded half up to whole dong. Raises RenderError as `decimal` does."""
    return number(value) + " VND"


_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_ISO_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?", re.ASCII)
_ISO_OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2}(?::[0-9]{2})?)?)?"
_ISO_DATETIME = re.compile(rf"{_ISO_DATE.pattern}[T ]{_ISO_TIME.pattern}{_ISO_OFFSET}", re.ASCII)


def format_date(value: object, zone: ZoneInfo) -> str:
    """`22/11/2026` of a date, a datetime, or either as PostgreSQL's to_jsonb writes it.

    An aware datetime is turned to `zone`; a naive one is already local. Raises RenderError for anything else,
    among it infinity and years outside 1 to 9999.
    """
    moment = _moment(value, zone)
    if isinstance(moment, time):
        raise RenderError("a time of day has no date")
    return _as_date(moment)


def format_time(value: object, zone: ZoneInfo) -> str:
    """`10:00` of a time, a datetime, or either as to_jsonb writes it; zones and errors as in `format_date`."""
    moment = _moment(value, zone)
    if not isinstance(moment, datetime | time):
        raise RenderError("a date has no time of day")
    return _as_time(moment)


def format_datetime(value: object, zone: ZoneInfo) -> str:
    """`22/11/2026 10:00` of a datetime or of one as to_jsonb writes it; zones and errors as in `format_date`."""
    moment = _moment(value, zone)
    if not isinstance(moment, datetime):
        raise RenderError("a date alone or a time alone is not a date and time")
    return f"{_as_date(moment)} {_as_time(moment)}"


def _as_date(moment: datetime | date) -> str:
    return f"{moment.day:02}/{moment.month:02}/{moment.year:04}"


def _as_time(moment: datetime | time) -> str:
    return f"{moment.hour:02}:{moment.minute:02}"


def _moment(value: object, zone: ZoneInfo) -> datetime | date | time:
    """The value on the clocks of `zone`, naive or in it."""
    try:
        if isinstance(value, str):
            value = _parsed(value.strip())
        if isinstance(value, datetime):
            return value.astimezone(zone) if value.tzinfo is not None else value
    except (ValueError, OverflowError):
        raise RenderError("the date or time is outside the calendar of the years 1 to 9999") from None
    if isinstance(value, time) and value.tzinfo is not None:
        raise RenderError("a time of day with an offset cannot be turned to local time without its date")
    if isinstance(value, date | time):
        return value
    if value is None:
        raise RenderError("NULL is not a date or time")
    raise RenderError(f"a value of type {type(value).__name__} is not a date or time")


def _parsed(text: str) -> datetime | date | time:
    if _ISO_DATETIME.fullmatch(text):
        return datetime.fromisoformat(text)
    if _ISO_DATE.fullmatch(text):
        return date.fromisoformat(text)
    if _ISO_TIME.fullmatch(text):
        return time.fromisoformat(text)
    if text in ("infinity", "-infinity"):
        raise RenderError("infinity is not a date or time to show")
    raise RenderError("the text is not an ISO date or time such as 2026-11-22T10:00:00+07:00")

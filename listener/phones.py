"""Phone numbers: whatever the ERP holds becomes `0` + 9 digits that can take an SMS, or a reason why not.

The strict pre-filter comes first, because the phonenumbers library is lenient where a guess would text a stranger:
it takes letters as digits and a second number as an extension.
"""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from listener.words import mask_phones

_MAX_LENGTH = 256
# What Vietnam's carriers moved from 11 to 10 digits between 2018-09-15 and 2019-06-30 (Decision 798/QD-BTTTT);
# both sides without the leading 0.
# fmt: off
_OLD_PREFIXES = {
    "162": "32", "163": "33", "164": "34", "165": "35", "166": "36", "167": "37", "168": "38", "169": "39",  # Viettel
    "120": "70", "121": "79", "122": "77", "126": "76", "128": "78",  # MobiFone
    "123": "83", "124": "84", "125": "85", "127": "81", "129": "82",  # VinaPhone
    "186": "56", "188": "58",  # Vietnamobile
    "199": "59",  # Gmobile
}
# fmt: on
_FORMER_PREFIXES = {new: old for old, new in _OLD_PREFIXES.items()}
_ALLOWED = re.compile(r"\(?\+?[0-9 .()\-]+", re.ASCII)
_FLOAT_EXPORT = re.compile(r"\+?[0-9]{6,}\.[0-9]{1,2}", re.ASCII)
_MARKS = re.compile(r"[^0-9]", re.ASCII)
_NUMBER_TOLD = re.compile(r"; (?:its new form is|it reads) [0-9]{3}\*\*\*[0-9]{3}")


class Reason(StrEnum):
    """Why a value is no number we can text."""

    EMPTY = "empty"
    FORMAT = "format"
    LENGTH = "length"
    LANDLINE = "landline"
    SERVICE_NUMBER = "service_number"
    PREFIX = "prefix"
    UNASSIGNED_RANGE = "unassigned_range"
    FOREIGN = "foreign"
    OLD_11_DIGIT = "old_11_digit"


_SENTENCES = {
    Reason.EMPTY: "there is no phone number",
    Reason.FORMAT: "this is not one phone number: it may hold digits, spaces, dots, dashes and brackets, and no more",
    Reason.LENGTH: "the number of digits is wrong; a Vietnamese mobile number has 10",
    Reason.LANDLINE: "this is a landline, which cannot receive SMS",
    Reason.SERVICE_NUMBER: "1800 and 1900 numbers are services and cannot receive SMS",
    Reason.PREFIX: "a Vietnamese mobile number begins with 03, 05, 07, 08 or 09",
    Reason.UNASSIGNED_RANGE: "no carrier has been given this range of numbers",
    Reason.FOREIGN: "this is a number of another country",
    Reason.OLD_11_DIGIT: "this old 11-digit number was replaced in 2018 and may be someone else's now",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A Vietnamese mobile number, `0` + 9 digits; `migrated` if it was rewritten from an old 11-digit one."""

    number: str
    migrated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPhone:
    """No number to text. `suggestion` is the new form of an old 11-digit number, else None."""

    reason: Reason
    suggestion: str | None = None


def reason_text(bad: BadPhone) -> str:
    """The reason as a sentence for people; the suggestion in it is masked."""
    sentence = _SENTENCES[bad.reason]
    return f"{sentence}; its new form is {mask_phone(bad.suggestion)}" if bad.suggestion else sentence


def refusal(value: object, bad: BadPhone) -> str:
    """The reason, and what stands there, masked, to find the customer by; nothing of what is too short to mask, or too
    long to be a phone."""
    told = isinstance(value, int | Decimal) or (isinstance(value, str) and len(value) <= _MAX_LENGTH)
    shown = mask_phone(str(value)) if told and bad.suggestion is None else "***"
    return f"{reason_text(bad)}; it reads {shown}" if shown != "***" else reason_text(bad)


def kind_of_refusal(reason: str) -> str:
    """The same of every number."""
    return _NUMBER_TOLD.sub("", reason)


def forms(number: str) -> list[str]:
    """The digits that are in every way of writing `number` (`0` and nine digits): those after the 0, and those of the
    11-digit number that it was before 2018, if it was one."""
    former = _FORMER_PREFIXES.get(number[1:3])
    return [number[1:]] + ([former + number[3:]] if former else [])


def mask_phone(phone: str) -> str:
    """`091***678`, the only form that may reach a log; too short to mask so is `***`."""
    digits = _MARKS.sub("", phone)
    return f"{digits[:3]}***{digits[-3:]}" if len(digits) >= 9 else "***"


def normalise(value: object, *, migrate_old: bool = False) -> Phone | BadPhone:
    """Turn a value of an ERP column (text, or a whole number that lost its leading 0) into a number to text.

    `migrate_old` rewrites an old 11-digit number instead of refusing it. Never raises.
    """
    # To a cache 1 and True are one value, and a long text may be of any size.
    remembered = isinstance(value, str) and len(value) <= _MAX_LENGTH
    return (_known if remembered else _normalised)(value, migrate_old)


def mask_value(value: str) -> str:
    """A value of a row, such as a key: `091***678` where it is a phone in any form, else without the phones in it."""
    alone = isinstance(normalise(value, migrate_old=True), Phone)
    return mask_phone(value) if alone else mask_phones(value)


def mask_thread(name: str) -> str:
    """The name of a thread, which is its watch and its key (`sub:0912345678`) unless its rule says otherwise."""
    return ":".join(map(mask_value, name.split(":")))


def _normalised(value: object, migrate_old: bool) -> Phone | BadPhone:
    written = _written(value)
    if isinstance(written, Reason):
        return BadPhone(reason=written)
    national = _national(written)
    if isinstance(national, Reason):
        return BadPhone(reason=national)

    new_prefix = _OLD_PREFIXES.get(national[:3]) if len(national) == 10 else None
    if new_prefix is not None:
        national = new_prefix + national[3:]
        if not migrate_old:
            return BadPhone(reason=Reason.OLD_11_DIGIT, suggestion="0" + national)
    reason = _refusal(national)
    return BadPhone(reason=reason) if reason else Phone(number="0" + national, migrated=new_prefix is not None)


_known = lru_cache(maxsize=10_000)(_normalised)


def _written(value: object) -> str | Reason:
    """What the value says in ASCII: digits, separators and at most a leading plus."""
    match value:
        case None:
            return Reason.EMPTY
        case str():
            text = value
        case bool():
            return Reason.FORMAT
        case int() | Decimal():
            return _digits_of(Decimal(value))
        case _:
            return Reason.FORMAT
    if len(text) > _MAX_LENGTH:
        return Reason.LENGTH
    if not text.isascii():
        # NFKC would make a digit of a footnote mark or a fraction.
        if any(unicodedata.category(char) == "No" for char in text):
            return Reason.FORMAT
        text = unicodedata.normalize("NFKC", text)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cf")).strip()
    text = text.removeprefix("'")
    if text[:4].lower() == "tel:":
        text = text[4:]
    text = text.strip()
    if not text:
        return Reason.EMPTY
    # A spreadsheet's "912345678.0" would pass as ten digits with a dot between.
    if not _ALLOWED.fullmatch(text) or _FLOAT_EXPORT.fullmatch(text):
        return Reason.FORMAT
    return text


def _digits_of(value: Decimal) -> str | Reason:
    if not value.is_finite() or value < 0:
        return Reason.FORMAT
    if value.adjusted() > 20:
        return Reason.LENGTH
    return f"{value:.0f}" if value == value.to_integral_value() else Reason.FORMAT


def _national(written: str) -> str | Reason:
    """The digits after the country code and the trunk 0."""
    digits = _MARKS.sub("", written)
    if not digits:
        return Reason.FORMAT
    international = written.startswith(("+", "(+"))
    if not international and digits.startswith("00"):
        international, digits = True, digits[2:]
    if international:
        if digits.startswith("84"):
            digits = digits[2:]
        elif digits.startswith("0") or not digits:
            return Reason.FORMAT
        else:
            return Reason.FOREIGN
    elif digits.startswith("84") and 11 <= len(digits) <= 13:
        # Nine digits from 84 are a number of the prefix 084 that lost its 0.
        digits = digits[2:]
    return digits.removeprefix("0")


def _refusal(national: str) -> Reason | None:
    if national.startswith(("1800", "1900")):
        return Reason.SERVICE_NUMBER
    if len(national) == 10 and national.startswith("2"):
        return Reason.LANDLINE
    if len(national) != 9:
        return Reason.LENGTH
    if national[0] not in "35789":
        return Reason.PREFIX
    return None if _is_assigned_mobile(national) else Reason.UNASSIGNED_RANGE


@lru_cache(maxsize=10_000)
def _is_assigned_mobile(national: str) -> bool:
    # Imported here because it takes 14 to 38 ms, which a command that texts nobody need not wait for.
    from phonenumbers import PhoneNumber, PhoneNumberType, number_type

    kind: int = number_type(PhoneNumber(country_code=84, national_number=int(national)))
    return kind == PhoneNumberType.MOBILE

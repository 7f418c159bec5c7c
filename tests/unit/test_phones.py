"""The phone vectors, and what people and spreadsheets put into a phone column."""

import re
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.phones import (
    BadPhone,
    Phone,
    Reason,
    kind_of_refusal,
    mask_phone,
    mask_value,
    normalise,
    reason_text,
    refusal,
)
from listener.words import mask_numbers, mask_phones

# fmt: off
VECTORS = [
    ("P01", "0980000000", "ok", "0980000000", ""),
    ("P02", "0912 345 678", "ok", "0912345678", ""),
    ("P03", "0912.345.678", "ok", "0912345678", ""),
    ("P04", "0912-345-678", "ok", "0912345678", ""),
    ("P05", "(0912) 345 678", "ok", "0912345678", ""),
    ("P06", "+84912345678", "ok", "0912345678", ""),
    ("P07", "+84 (0) 912 345 678", "ok", "0912345678", ""),
    ("P08", "84912345678", "ok", "0912345678", ""),
    ("P09", "0084912345678", "ok", "0912345678", ""),
    ("P10", "840912345678", "ok", "0912345678", ""),
    ("P11", "tel:+84912345678", "ok", "0912345678", ""),
    ("P12", "912345678", "ok", "0912345678", ""),
    ("P13", "0842345678", "ok", "0842345678", ""),
    ("P14", "842345678", "ok", "0842345678", ""),
    ("P15", "84842345678", "ok", "0842345678", ""),
    ("P16", "\u00a00912345678\u200b", "ok", "0912345678", ""),
    ("P17", "'0912345678", "ok", "0912345678", ""),
    ("P18", "\uff10\uff19\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18", "ok", "0912345678", ""),
    ("P19", "01692345678", "migrated", "0392345678", ""),
    ("P20", "+841201234567", "migrated", "0701234567", ""),
    ("P21", "01231234567", "migrated", "0831234567", ""),
    ("P22", "01242345678", "migrated", "0842345678", ""),
    ("P23", "01862345678", "migrated", "0562345678", ""),
    ("P24", "01882345678", "migrated", "0582345678", ""),
    ("P25", "01992345678", "migrated", "0592345678", ""),
    ("P26", "841692345678", "migrated", "0392345678", ""),
    ("P27", "01612345678", "invalid", "", "length"),
    ("P28", "02438251234", "invalid", "", "landline"),
    ("P29", "+84 28 3825 1234", "invalid", "", "landline"),
    ("P30", "(024) 3825 1234", "invalid", "", "landline"),
    ("P31", "19001234", "invalid", "", "service_number"),
    ("P32", "1800123456", "invalid", "", "service_number"),
    ("P33", "090123456", "invalid", "", "length"),
    ("P34", "09012345678", "invalid", "", "length"),
    ("P35", "0123456789", "invalid", "", "prefix"),
    ("P36", "0438251234", "invalid", "", "prefix"),
    ("P37", "0160123456", "invalid", "", "prefix"),
    ("P38", "0672123456", "invalid", "", "prefix"),
    ("P39", "+16502530000", "invalid", "", "foreign"),
    ("P40", "0912345678/0987654321", "invalid", "", "format"),
    ("P41", "0901234567;0912345678", "invalid", "", "format"),
    ("P42", "O912345678", "invalid", "", "format"),
    ("P43", "0912345678 (Anh Nam)", "invalid", "", "format"),
    ("P44", "9.12345678E8", "invalid", "", "format"),
    ("P45", "912345678.0", "invalid", "", "format"),
    ("P46", "", "invalid", "", "empty"),
]
# fmt: on


@pytest.mark.parametrize(("name", "value", "status", "number", "reason"), VECTORS, ids=[row[0] for row in VECTORS])
def test_vector(name: str, value: str, status: str, number: str, reason: str) -> None:
    strict = normalise(value)
    lenient = normalise(value, migrate_old=True)
    match status:
        case "ok":
            assert strict == lenient == Phone(number=number)
        case "migrated":
            assert strict == BadPhone(reason=Reason.OLD_11_DIGIT, suggestion=number)
            assert lenient == Phone(number=number, migrated=True)
        case _:
            assert strict == lenient == BadPhone(reason=Reason(reason))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        ("   ", Reason.EMPTY),
        ("\u200b'", Reason.EMPTY),
        ("tel:", Reason.EMPTY),
        ("không có", Reason.FORMAT),
        ("---", Reason.FORMAT),
        ("+", Reason.FORMAT),
        ("+0912345678", Reason.FORMAT),
        ("((+84)) 912345678", Reason.FORMAT),
        ("(+1) 650 253 0000", Reason.FOREIGN),
        ("09+12345678", Reason.FORMAT),
        ("٠٩١٢٣٤٥٦٧٨", Reason.FORMAT),
        ("0912345678²", Reason.FORMAT),
        ("091234567①", Reason.FORMAT),
        ("0912345678 ext 5", Reason.FORMAT),
        ("0912*345*678", Reason.FORMAT),
        ("0912345678, 0987654321", Reason.FORMAT),
        ("0912345678\n0987654321", Reason.LENGTH),
        ("0912345678 0987654321", Reason.LENGTH),
        ("113", Reason.LENGTH),
        ("1" * 200, Reason.LENGTH),
        ("9" * 10_000, Reason.LENGTH),
        ("0151 12345678", Reason.LENGTH),
        ("+49 (0)151 12345678", Reason.FOREIGN),
        ("004915112345678", Reason.FOREIGN),
        ("0521234567", Reason.UNASSIGNED_RANGE),
        (912345678.0, Reason.FORMAT),
        (True, Reason.FORMAT),
        (-912345678, Reason.FORMAT),
        (Decimal("912345678.5"), Reason.FORMAT),
        (Decimal("NaN"), Reason.FORMAT),
        (Decimal("1E+999999"), Reason.LENGTH),
        (["0912345678"], Reason.FORMAT),
        (b"0912345678", Reason.FORMAT),
    ],
)
def test_refused(value: object, reason: Reason) -> None:
    assert normalise(value) == BadPhone(reason=reason)


@pytest.mark.parametrize(
    "value",
    [
        912345678,
        84912345678,
        Decimal("912345678"),
        Decimal("912345678.00"),
        "0912345678\r\n",
        "\t0912345678",
        "TEL:0912345678",
        "+84-912-345-678",
        "(+84) 912 345 678",
        "(+84)0912345678",
        "(0084) 912.345.678",
        "0912\u00a0345\u202f678",
    ],
)
def test_accepted(value: object) -> None:
    assert normalise(value) == Phone(number="0912345678")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_own_sentence(reason: Reason) -> None:
    others = {reason_text(BadPhone(reason=other)) for other in Reason if other is not reason}
    assert len(reason_text(BadPhone(reason=reason))) > 10
    assert reason_text(BadPhone(reason=reason)) not in others


def test_the_suggestion_is_told_masked() -> None:
    told = reason_text(BadPhone(reason=Reason.OLD_11_DIGIT, suggestion="0392345678"))
    assert "039***678" in told
    assert "0392345678" not in told


def test_mask() -> None:
    assert mask_phone("0912345678") == "091***678"
    assert mask_phone("+84 912 345 678") == "849***678"
    assert mask_phone("0912345678 (Anh Nam)") == "091***678"
    assert [mask_phone(short) for short in ("", "113", "19001234")] == ["***"] * 3


@pytest.mark.parametrize(
    "phone", ["0912345678", "0912 345 678", "+84912345678", "(+84) 912 345 678", "+84 (0)912 345 678", "0084 912345678"]
)
def test_a_phone_amid_other_words_is_masked_in_each_of_its_forms(phone: str) -> None:
    assert mask_value(phone) == mask_phone(phone)
    masked = mask_value(f"call {phone} now")
    assert "912" not in masked.removeprefix("call 091") and "345" not in masked and masked.endswith("678 now")
    assert mask_value("DH-0912 of 22/11/2026, 1.234.567 VND") == "DH-0912 of 22/11/2026, 1.234.567 VND"


@pytest.mark.parametrize("gap", ["\u00a0", "\u202f", "\t", "\u2011", "\u2013", "\u200b"])
def test_a_phone_is_masked_as_it_is_pasted(gap: str) -> None:
    """With blanks and hyphens that do not break, dashes, and marks that nobody sees: out of Word, Excel, Zalo."""
    for phone in ("0912{}345{}678", "+84{}912345{}678"):
        text = f"call {phone.format(gap, gap)} now"
        for mask in (mask_phones, mask_numbers):
            assert re.fullmatch(r"call (091|\+84)\*\*\*678 now", mask(text)), (mask, text)


@given(st.one_of(st.text(), st.text("0123456789+-.() "), st.integers(), st.decimals(), st.floats(), st.none()))
def test_never_raises_and_never_yields_anything_but_ten_digits(value: object) -> None:
    match normalise(value, migrate_old=True):
        case Phone(number=number):
            assert len(number) == 10
            assert number.isascii()
            assert number.isdigit()
            assert number[:2] in {"03", "05", "07", "08", "09"}
            assert normalise(number) == Phone(number=number)
        case BadPhone(reason=reason):
            assert reason in Reason


def test_the_phone_library_is_imported_only_when_a_number_is_checked() -> None:
    code = (
        "import sys; from listener.phones import normalise; "
        "normalise('no number'); assert 'phonenumbers' not in sys.modules; "
        "normalise('0912345678'); assert 'phonenumbers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("024 3825 1234", "cannot receive SMS; it reads 024***234"),
        (2438251234, "cannot receive SMS; it reads 243***234"),
        ("0912345678/0987654321", "and no more; it reads 091***321"),
        ("chi Lan 0912345678", "and no more; it reads 091***678"),
        ("01692345678", "its new form is 039***678"),
        # so short, nothing would be hidden of it
        ("0912345", "has 10"),
        ({"mobile": "0912345678"}, "and no more"),
    ],
)
def test_a_refusal_tells_enough_to_find_the_customer_and_no_whole_number(value: object, end: str) -> None:
    bad = normalise(value)
    assert isinstance(bad, BadPhone)
    told = refusal(value, bad)
    assert told.endswith(end)
    assert kind_of_refusal(told) == kind_of_refusal(reason_text(bad))

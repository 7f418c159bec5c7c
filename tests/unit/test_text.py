"""The length, cleaning and format vectors of Vietnamese SMS, and a second way of counting that must agree."""

import unicodedata
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.errors import RenderError
from listener.text import (
    GSM_BASIC,
    GSM_EXTENSION,
    PartTable,
    clean,
    count,
    decimal,
    format_date,
    format_datetime,
    format_time,
    number,
    shorten,
    unaccent,
    vnd,
)

HCM = ZoneInfo("Asia/Ho_Chi_Minh")


def nfd(s: str) -> str:
    return unicodedata.normalize("NFD", s)


# id, text, characters, encoding, units, segments, class, carrier's units and parts, then units and parts unaccented
MESSAGES = [
    (
        "M01",
        "HOANGLONG TB: TK 0123xxx789 cua Quy khach den 22/11/2026 con 1.234.567 VND. LH 19001234.",
        88,
        "GSM-7",
        88,
        1,
        "unaccented",
        88,
        1,
        88,
        1,
    ),
    ("M02", "a" * 160, 160, "GSM-7", 160, 1, "unaccented", 160, 1, 160, 1),
    ("M03", "a" * 161, 161, "GSM-7", 161, 2, "unaccented", 161, 2, 161, 2),
    ("M04", "a" * 306, 306, "GSM-7", 306, 2, "unaccented", 306, 2, 306, 2),
    ("M05", "a" * 307, 307, "GSM-7", 307, 3, "unaccented", 307, 3, 307, 3),
    ("M06", "a" * 459, 459, "GSM-7", 459, 3, "unaccented", 459, 3, 459, 3),
    ("M07", "a" * 460, 460, "GSM-7", 460, 4, "unaccented", 460, 4, 460, 4),
    ("M08", "a" * 480, 480, "GSM-7", 480, 4, "unaccented", 480, 4, 480, 4),
    ("M09", "a" * 612, 612, "GSM-7", 612, 4, "unaccented", 612, 4, 612, 4),
    ("M10", "a" * 613, 613, "GSM-7", 613, 5, "unaccented", 613, 5, 613, 5),
    ("M11", "a" * 1000, 1000, "GSM-7", 1000, 7, "unaccented", 1000, 7, 1000, 7),
    ("M12", "ạ" * 70, 70, "UCS-2", 70, 1, "accented", 70, 1, 70, 1),
    ("M13", "ạ" * 71, 71, "UCS-2", 71, 2, "accented", 71, 2, 71, 1),
    ("M14", "ạ" * 134, 134, "UCS-2", 134, 2, "accented", 134, 2, 134, 1),
    ("M15", "ạ" * 135, 135, "UCS-2", 135, 3, "accented", 135, 3, 135, 1),
    ("M16", "ạ" * 201, 201, "UCS-2", 201, 3, "accented", 201, 3, 201, 2),
    ("M17", "ạ" * 202, 202, "UCS-2", 202, 4, "accented", 202, 4, 202, 2),
    ("M18", "ạ" * 268, 268, "UCS-2", 268, 4, "accented", 268, 4, 268, 2),
    ("M19", "ạ" * 269, 269, "UCS-2", 269, 5, "accented", 269, 5, 269, 2),
    ("M20", "ạ" * 1000, 1000, "UCS-2", 1000, 15, "accented", 1000, 15, 1000, 7),
    ("M21", "Quý khách còn nợ 1.234.567 đ, hạn 30/11/2026.", 45, "UCS-2", 45, 1, "accented", 45, 1, 45, 1),
    (
        "M22",
        "Kính gửi Quý khách Nguyễn Thị Đoan Trường, đơn DH42 đã giao xong.",
        65,
        "UCS-2",
        65,
        1,
        "accented",
        65,
        1,
        65,
        1,
    ),
    (
        "M23",
        nfd("Kính gửi Quý khách Nguyễn Thị Đoan Trường, đơn DH42 đã giao xong."),
        78,
        "UCS-2",
        78,
        2,
        "accented",
        78,
        2,
        65,
        1,
    ),
    ("M24", "Nhà hàng xin chào", 17, "GSM-7", 17, 1, "accented", 17, 1, 17, 1),
    (
        "M25",
        "Don hang DH42 giao 22/11 \u2013 24/11. Moi thac mac xin LH 19001234 de duoc ho tro. Cam on Quy khach.",
        96,
        "UCS-2",
        96,
        2,
        "accented",
        96,
        2,
        96,
        1,
    ),
    ("M26", "So du: 1.234.567\u00a0VND", 20, "UCS-2", 20, 1, "accented", 20, 1, 20, 1),
    ("M27", "So du: 1.234.567 \u20ab", 18, "UCS-2", 18, 1, "accented", 18, 1, 20, 1),
    ("M28", "Don \u201cDH42\u201d da giao", 18, "UCS-2", 18, 1, "accented", 18, 1, 18, 1),
    ("M29", "Ma don \x60DH42\x60", 13, "UCS-2", 13, 1, "accented", 13, 1, 13, 1),
    ("M30", "Ma:\tDH42", 8, "UCS-2", 8, 1, "accented", 8, 1, 8, 1),
    ("M31", "[HOANGLONG] Don {DH42} ~ok~", 27, "GSM-7", 33, 1, "unaccented", 33, 1, 33, 1),
    ("M32", "Phi 50\u20ac", 7, "GSM-7", 8, 1, "accented", 7, 1, 9, 1),
    ("M33", "a" * 159 + "^", 160, "GSM-7", 161, 2, "unaccented", 161, 2, 161, 2),
    ("M34", "a" * 152 + "[" + "b" * 152, 305, "GSM-7", 306, 3, "unaccented", 306, 2, 306, 2),
    ("M35", "Cảm ơn \U0001f389", 8, "UCS-2", 9, 1, "accented", 9, 1, 7, 1),
    ("M36", "ạ" * 66 + "\U0001f389" + "ạ" * 66, 133, "UCS-2", 134, 3, "accented", 134, 2, 132, 1),
    ("M37", "Dong 1\nDong 2", 13, "GSM-7", 13, 1, "unaccented", 13, 1, 13, 1),
    ("M38", "Dong 1\r\nDong 2", 14, "GSM-7", 14, 1, "unaccented", 14, 1, 13, 1),
    ("M39", "", 0, "GSM-7", 0, 0, "unaccented", 0, 0, 0, 0),
]
CLEANED = [
    (
        "T01",
        "Kính gửi Đặng Thị Ướt, đơn hàng đã giao.",
        "Kính gửi Đặng Thị Ướt, đơn hàng đã giao.",
        "Kinh gui Dang Thi Uot, don hang da giao.",
    ),
    ("T02", nfd("ĐƠN HÀNG CỦA NGUYỄN VĂN ỬNG"), "ĐƠN HÀNG CỦA NGUYỄN VĂN ỬNG", "DON HANG CUA NGUYEN VAN UNG"),
    ("T03", "So du: 1.234.567\u00a0\u20ab", "So du: 1.234.567 VND", "So du: 1.234.567 VND"),
    ("T04", "Giao 22/11 \u2013 24/11\u2026", "Giao 22/11 - 24/11...", "Giao 22/11 - 24/11..."),
    ("T05", "\u201cHoàng Long\u201d \u2018kính báo\u2019", "\"Hoàng Long\" 'kính báo'", "\"Hoang Long\" 'kinh bao'"),
    ("T06", "Ma\u200bDH42\ufeff", "MaDH42", "MaDH42"),
    ("T07", "Cảm ơn \U0001f389 Quý khách \u2764\ufe0f", "Cảm ơn 🎉 Quý khách ❤", "Cam on  Quy khach "),
    ("T08", "Ma:\tDH42\r\nLH \x6019001234\x60", "Ma: DH42\nLH '19001234'", "Ma: DH42\nLH '19001234'"),
    ("T09", "Điện thoại \uff10\uff19\uff11\uff12", "Điện thoại 0912", "Dien thoai 0912"),
    ("T10", "\u00d0inh Văn \u00d0ức", "Đinh Văn Đức", "Dinh Van Duc"),
    ("T11", "\u2022 Size 2\u00d73 \u2022 50\u20ac", "- Size 2x3 - 50€", "- Size 2x3 - 50EUR"),
    ("T12", "1.234.567đ", "1.234.567đ", "1.234.567d"),
    ("T13", "Nước: 16 m³, đất: 50 m²", "Nước: 16 m³, đất: 50 m²", "Nuoc: 16 m3, dat: 50 m2"),
    ("T14", "1⁄2 thùng, 3∕4 kg", "1/2 thùng, 3/4 kg", "1/2 thung, 3/4 kg"),
    ("T15", "100→50, 1️⃣2, A→B", "100→50, 1⃣2, A→B", "100 50, 1 2, AB"),
    ("T16", "1\u03362 3\u200b4", "1\u03362 34", "12 34"),
    ("T17", "Gà 1½ con, ¾ kg", "Gà 1½ con, ¾ kg", "Ga 1 1/2 con, 3/4 kg"),
]


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row[0])
def test_count_of_message(row: tuple[str, str, int, str, int, int, str, int, int, int, int]) -> None:
    _, text, chars, encoding, units, segments, accents, carrier_units, carrier_parts, plain_units, plain_parts = row
    assert len(text) == chars
    counted = count(text)
    assert (counted.encoding, counted.units, counted.segments) == (encoding, units, segments)
    assert (counted.accents, counted.carrier_units, counted.carrier_parts) == (accents, carrier_units, carrier_parts)
    assert counted.parts == max(segments, carrier_parts)
    plain = count(unaccent(text))
    assert (plain.carrier_units, plain.carrier_parts) == (plain_units, plain_parts)


@pytest.mark.parametrize("row", CLEANED, ids=lambda row: row[0])
def test_clean_and_unaccent(row: tuple[str, str, str, str]) -> None:
    _, text, cleaned, unaccented = row
    assert clean(text) == cleaned
    assert unaccent(text) == unaccented


def test_gsm_alphabet_is_complete() -> None:
    assert len(GSM_BASIC) == 127  # and the escape
    assert len(GSM_EXTENSION) == 10
    assert not GSM_BASIC & GSM_EXTENSION


LETTERS = {
    "a": "àáảãạăằắẳẵặâầấẩẫậ",
    "d": "đ",
    "e": "èéẻẽẹêềếểễệ",
    "i": "ìíỉĩị",
    "o": "òóỏõọôồốổỗộơờớởỡợ",
    "u": "ùúủũụưừứửữự",
    "y": "ỳýỷỹỵ",
}
ALL_LETTERS = [(letter, base) for base, letters in LETTERS.items() for letter in letters]
ALL_LETTERS += [(letter.upper(), base.upper()) for letter, base in ALL_LETTERS]


def half_composed(letter: str) -> str:
    """As Windows-1258 has it: the vowel's own mark composed, the tone apart."""
    marks = nfd(letter)
    tones = "\u0300\u0301\u0303\u0309\u0323"
    vowel = unicodedata.normalize("NFC", "".join(c for c in marks if c not in tones))
    return vowel + "".join(c for c in marks if c in tones)


def test_there_are_134_accented_letters() -> None:
    assert len({letter for letter, _ in ALL_LETTERS}) == 134


@pytest.mark.parametrize("form", [str, nfd, half_composed])
def test_every_letter_loses_its_marks_and_stays(form: type[str]) -> None:
    for letter, base in ALL_LETTERS:
        assert clean(form(letter)) == letter
        assert unaccent(form(letter)) == base


def test_only_seven_letters_are_gsm_7_and_none_is_unaccented() -> None:
    assert {letter for letter, _ in ALL_LETTERS if letter in GSM_BASIC} == set("àèéÉìòù")
    assert {count(letter).accents for letter, _ in ALL_LETTERS} == {"accented"}


@pytest.mark.parametrize(
    ("hostile", "cleaned"),
    [
        ("a\x00b", "ab"),
        ("a\ud800b\udfff", "ab"),
        ("a\u202eb\u2066c\u2069", "abc"),
        ("a\x1b[31mb\x07\x7f\x85", "a[31mb"),
        ("a\rb\r\nc\n\rd", "a\nb\nc\n\nd"),
        ("a\u0301\u200b", "á"),
        ("a\u200b\u0301", "á"),
        ("\uff40x\u1fef", "'x'"),
        ("a\u2028b\u3000c\u2009d", "a b c d"),
        ("\u00ad\ufe0f\U000e0101\u180b", ""),
        ("   ", "   "),
        ("", ""),
        ("\u0301" * 3, "\u0301" * 3),
    ],
)
def test_hostile_characters(hostile: str, cleaned: str) -> None:
    assert clean(hostile) == cleaned


any_text = st.text(st.characters(codec=None, categories=None), max_size=60)
sms_text = st.lists(
    st.sampled_from(
        [*"aZ0 \n", *"^{}[]~|€", *"àéñ", *"ạđ", "\t", "`", "\u2013", "\U0001f389", "a" * 40, "ạ" * 20, "\r"]
    )
).map("".join)


@given(any_text)
def test_clean_is_idempotent_and_encodable(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    cleaned.encode()
    assert not set(cleaned) & {"\x00", "\t", "\r", "\ufeff"}


@given(any_text)
def test_unaccented_text_is_plain_gsm_7(text: str) -> None:
    plain = unaccent(text)
    assert unaccent(plain) == plain
    assert plain.isascii()
    counted = count(plain)
    assert (counted.encoding, counted.accents) == ("GSM-7", "unaccented")


def septets(text: str) -> list[int] | None:
    """The message as a handset packs it, or None when it is not GSM-7; ESC is 27."""
    table = (
        "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
        "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
    )
    escaped = {"\f": 10, "^": 20, "{": 40, "}": 41, "\\": 47, "[": 60, "~": 61, "]": 62, "|": 64, "€": 101}
    codes: list[int] = []
    for char in text:
        if char in escaped:
            codes += [27, escaped[char]]
        elif char != "\x1b" and char in table:
            codes.append(table.index(char))
        else:
            return None
    return codes


def sliced(codes: list[int], single: int, step: int, opens_pair: range) -> int:
    """How many segments real slicing makes, moving the cut back when it would fall inside a pair."""
    if len(codes) <= single:
        return 1 if codes else 0
    pieces = 0
    while codes:
        end = min(step, len(codes))
        if end < len(codes) and codes[end - 1] in opens_pair:
            end -= 1
        codes = codes[end:]
        pieces += 1
    return pieces


@given(sms_text)
def test_count_agrees_with_real_encoding_and_slicing(text: str) -> None:
    utf16 = text.encode("utf-16-be")
    utf16_codes = [int.from_bytes(utf16[i : i + 2], "big") for i in range(0, len(utf16), 2)]
    packed = septets(text)
    counted = count(text)
    if packed is None:
        assert counted.encoding == "UCS-2"
        assert counted.units == len(utf16_codes)
        assert counted.segments == sliced(utf16_codes, 70, 67, range(0xD800, 0xDC00))
    else:
        assert counted.encoding == "GSM-7"
        assert counted.units == len(packed)
        assert counted.segments == sliced(packed, 160, 153, range(27, 28))
    unaccented = packed is not None and text.isascii()
    assert counted.accents == ("unaccented" if unaccented else "accented")
    carrier = len(packed) if unaccented and packed is not None else len(utf16_codes)
    ends = [160, 306, 459, 612] if unaccented else [70, 134, 201, 268]
    while ends[-1] < carrier:
        ends.append(ends[-1] + (153 if unaccented else 67))
    assert counted.carrier_parts == (sum(end < carrier for end in ends) + 1 if carrier else 0)
    assert counted.parts == max(counted.segments, counted.carrier_parts)


def test_own_table_and_its_end() -> None:
    table = PartTable(unaccented=(122, 268), accented=(60,))
    assert [count("a" * n, table).carrier_parts for n in (122, 123, 268, 269, 421, 422)] == [1, 2, 2, 3, 3, 4]
    assert [count("ạ" * n, table).carrier_parts for n in (60, 61, 127, 128)] == [1, 2, 2, 3]
    assert count("a" * 123, table).parts == 2  # the standard alone says 1


@pytest.mark.parametrize("row", [(), (0,), (160, 160), (306, 160), (-1, 5)])
def test_bad_table_is_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rising"):
        PartTable(unaccented=row)
    with pytest.raises(ValueError, match="rising"):
        PartTable(accented=row)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param(Decimal("1234567"), "1.234.567 VND", id="F01"),
        pytest.param(Decimal("1234567.00"), "1.234.567 VND", id="F02"),
        pytest.param(Decimal("1234567.89"), "1.234.568 VND", id="F03"),
        pytest.param(Decimal("2.5"), "3 VND", id="F04"),
        pytest.param(Decimal("-50000"), "-50.000 VND", id="F05"),
        pytest.param(Decimal("-0.4"), "0 VND", id="F06"),
        pytest.param(0, "0 VND", id="F07"),
        pytest.param(123456789012345, "123.456.789.012.345 VND", id="F08"),
        ("1234567.00", "1.234.567 VND"),
        ("1500.000", "1.500 VND"),
        ("0.500", "1 VND"),
        (" -2.5 ", "-3 VND"),
        (Decimal("0.5"), "1 VND"),
        (Decimal("1E+6"), "1.000.000 VND"),
        (Decimal("12345678901234567890123.5"), "12.345.678.901.234.567.890.124 VND"),
        (Decimal("-0"), "0 VND"),
    ],
)
def test_vnd(value: object, want: str) -> None:
    assert vnd(value) == want


def test_number_with_places() -> None:
    assert number(Decimal("1234567.45"), 1) == "1.234.567,5"
    assert number("1234567", 2) == "1.234.567,00"
    assert number(Decimal("-0.004"), 2) == "0,00"
    assert number(Decimal("-0.005"), 2) == "-0,01"
    assert number(Decimal("1E+308")) == "100" + ".000" * 102
    for places in (-1, 21):
        with pytest.raises(RenderError, match="0 to 20"):
            number(1, places)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1.5, [], "", "abc", "1.234.567", "90.000", " -1.500 ", "1,5",
        "NaN", "Infinity", "1e5", "٣", "0912345678x", "--1",
        Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+400"), Decimal("1E-401"), "9" * 401,
        "9" * 900, Decimal("1E+999999"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_refused_unquoted(value: object) -> None:
    with pytest.raises(RenderError) as caught:
        vnd(value)
    assert "0912345678" not in str(caught.value)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30), st.integers(0, 6))
def test_number_reads_back_within_half_a_unit(value: Decimal, places: int) -> None:
    shown = number(value, places)
    back = Decimal(shown.replace(".", "").replace(",", "."))
    assert abs(decimal(back) - value) * 2 <= Decimal(1).scaleb(-places)
    assert not (back.is_zero() and shown.startswith("-"))


@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param("2026-03-07T18:05:09Z", "08/03/2026 01:05", id="F09"),
        pytest.param("2026-12-31T17:00:00Z", "01/01/2027 00:00", id="F10"),
        pytest.param("2026-03-07T16:59:59Z", "07/03/2026 23:59", id="F11"),
        ("2026-11-22T10:00:00+07:00", "22/11/2026 10:00"),
        ("2026-11-22T10:00:00.123456", "22/11/2026 10:00"),
        ("2026-11-22T10:00:00.12+00:00", "22/11/2026 17:00"),
        ("2026-11-22 10:00:00+00", "22/11/2026 17:00"),
        ("0800-01-02T03:04:05", "02/01/0800 03:04"),
        (datetime(2026, 11, 22, 3, 0, tzinfo=UTC), "22/11/2026 10:00"),
        (datetime(2026, 11, 22, 3, 0, tzinfo=timezone(timedelta(hours=9))), "22/11/2026 01:00"),
        (datetime(2026, 11, 22, 3, 0), "22/11/2026 03:00"),
    ],
)
def test_datetime(value: object, want: str) -> None:
    assert format_datetime(value, HCM) == want
    assert f"{format_date(value, HCM)} {format_time(value, HCM)}" == want


def test_date_alone_and_time_alone() -> None:
    assert format_date("2026-11-22", HCM) == format_date(date(2026, 11, 22), HCM) == "22/11/2026"
    assert format_time("10:00:00", HCM) == format_time(time(10), HCM) == format_time("10:00", HCM) == "10:00"
    with pytest.raises(RenderError, match="no date"):
        format_date("10:00:00", HCM)
    with pytest.raises(RenderError, match="no time"):
        format_time("2026-11-22", HCM)
    for half in ("10:00:00", "2026-11-22"):
        with pytest.raises(RenderError, match="alone"):
            format_datetime(half, HCM)


@pytest.mark.parametrize(
    "value",
    [
        None, "", "infinity", "-infinity", "0044-03-15T00:00:00 BC", "12026-01-01T00:00:00", "0000-01-01", "2026-02-30",
        "2026-11-22T25:00:00", "20261122", "2026-W01-1", "10:00:00+07", "22/11/2026", 20261122, Decimal(5), [],
        "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00", time(10, tzinfo=UTC),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_moment_is_refused(value: object) -> None:
    for shape in (format_date, format_time, format_datetime):
        with pytest.raises(RenderError):
            shape(value, HCM)


@given(st.text(max_size=30), st.integers(0, 30))
def test_shorten_is_never_longer(text: str, n: int) -> None:
    short = shorten(text, n)
    assert len(short) <= n
    assert short in (text, unicodedata.normalize("NFC", text)) or (len(text) > n and short.endswith("..."[:n]))


def test_shorten() -> None:
    assert shorten("Nguyễn Văn An", 13) == "Nguyễn Văn An"
    assert shorten("Nguyễn Văn An", 12) == "Nguyễn Vă..."
    assert shorten("Nguyễn Văn An", 10) == "Nguyễn..."
    assert shorten(nfd("Nguyễn Văn An"), 13) == "Nguyễn Văn An", "marks that stand alone are no letters"
    assert shorten(nfd("Nguyễn Văn An"), 12) == "Nguyễn Vă..."
    with pytest.raises(RenderError):
        shorten("x", -1)

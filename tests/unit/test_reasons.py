"""Reasons in Vietnamese: none that this product writes down stays in English."""

import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from listener import phones, reasons
from listener.errors import RenderError
from listener.model import LockedOut, RateLimited, Unauthorized, Unknown
from listener.reasons import in_vietnamese
from listener.rules import ColumnChange
from listener.settling import pause_for
from listener.templates import Environment, Row
from tests.unit.test_conditions import ABSENT, N, change, refusal

# a reason that is partly kept (a column, a condition, a person's words) is still Vietnamese around it
VIETNAMESE = re.compile("[ăâđêôơưạảãàáẹẻẽèéịỉĩìíọỏõòóụủũùúỵỷỹỳýấầẩẫậắằẳẵặếềểễệốồổỗộớờởỡợứừửữự]", re.IGNORECASE)


@pytest.mark.parametrize("reason", phones.Reason)
def test_phones(reason: phones.Reason) -> None:
    suggestion = "0392345678" if reason is phones.Reason.OLD_11_DIGIT else None
    said = in_vietnamese(phones.reason_text(phones.BadPhone(reason=reason, suggestion=suggestion)))
    assert VIETNAMESE.search(said)
    assert (suggestion is None) or said.endswith("039***678")


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ({"to": "b"}, "b", "b"),
        ({"from": ["a", "c"]}, "x", "b"),
        ({"to": "b"}, "a", "c"),
        ({"crosses_below": 5}, N(5), N(6)),
        ({"crosses_above": 5}, N(5), N(4)),
        ({"increases_by": 5}, N(5), N(6)),
        ({"decreases_by": 5}, N(5), N(4)),
        ({"crosses_below": 5}, None, N(6)),
    ],
)
@pytest.mark.parametrize("old_known", [True, False])
def test_conditions(words: dict[str, Any], old: object, new: object, old_known: bool) -> None:
    asked = ColumnChange.model_validate(words)
    why = refusal("x", asked, change(old if old_known else ABSENT, new), old_known=old_known)
    assert why is None or VIETNAMESE.search(in_vietnamese(why))
    assert why is not None or not old_known


@pytest.mark.parametrize(
    "outcome",
    [
        RateLimited(retry_after=None),
        LockedOut(minutes=15),
        Unauthorized(status=401),
        Unknown(cause="no answer in time"),
    ],
)
def test_pauses(outcome: RateLimited | LockedOut | Unauthorized | Unknown) -> None:
    pause = pause_for(outcome, 1, 20, lambda: 0.5)
    assert pause is not None
    assert VIETNAMESE.search(in_vietnamese(pause.reason))


@pytest.mark.parametrize(
    ("english", "vietnamese"),
    [
        ("`when` is not true: new.x == 'a; b'", "điều kiện `when` không đúng: new.x == 'a; b'"),
        ("perhaps sent: no answer in time", "có thể đã gửi: không có câu trả lời kịp thời"),
        (
            "waited past its `expires`; last: too many requests (429)",
            "chờ quá thời hạn `expires`; lần cuối: quá nhiều yêu cầu (429)",
        ),
        ("sent after all; joined with a newer change", "hóa ra đã gửi được; đã gộp vào một thay đổi mới hơn"),
        ("cancelled by lan/erp: wrong price", "lan/erp đã hủy: wrong price"),
        ("refused by the gateway: Số điện thoại sai", "CareSoft từ chối: Số điện thoại sai"),
        ("the gateway's own words", "the gateway's own words"),
        ("", ""),
    ],
)
def test_what_is_kept_and_what_is_joined(english: str, vietnamese: str) -> None:
    assert in_vietnamese(english) == vietnamese


def test_no_translation_loses_or_invents_a_piece() -> None:
    for pattern, _, vietnamese in reasons._KNOWN:
        kept = set(re.findall(r"\{(\w+)!?\}", vietnamese))
        assert kept == set(pattern.groupindex), vietnamese


@pytest.mark.parametrize(
    ("reason", "english", "vietnamese"),
    [
        ("refused by the gateway: no Lan", "refused by the gateway: …", "CareSoft từ chối: …"),
        ("perhaps sent: the answer broke off", "perhaps sent: the answer broke off",
         "có thể đã gửi: câu trả lời bị đứt giữa chừng"),
        ("sent after all; ticket 7 refused (for Lan): sent without it",
         "sent after all; ticket … refused (…): sent without it",
         "hóa ra đã gửi được; phiếu … không được nhận (…), gửi không kèm phiếu"),
        ("Lan owes 5", "…", "…"),
    ],
)  # fmt: skip
def test_what_is_ours_of_a_reason_is_told_without_values(reason: str, english: str, vietnamese: str) -> None:
    assert reasons.without_values(reason, vietnamese=False) == english
    assert reasons.without_values(reason, vietnamese=True) == vietnamese


@pytest.mark.parametrize(
    "text",
    [
        "{{ new.none | vnd }}",
        "{{ new.text | vnd }}",
        "{{ new.text | date }}",
        "{{ new.number | date }}",
        "{{ new.day | time }}",
        "{{ new.nan | vnd }}",
        "{{ new.number / 0 }}",
        "{{ new.text + 1 }}",
        "{{ new.text > 1 }}",
        "{{ new.list }}",
        "{{ new }}",
        "{{ new.number[:3] }}",
        "{{ new.list[4] }}",
        "{{ new.text | label('status') }}",
        "{{ old.text }}",
        "{{ new.absent }}",
        "{{ new.text * 1000000 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
    ],
)
def test_what_a_text_cannot_work_with(text: str) -> None:
    new = {"none": None, "text": "abc", "number": N(5), "nan": N("NaN"), "day": "2026-01-01", "list": [N(1)]}
    environment = Environment(labels={"status": {"a": "b"}}, zone=ZoneInfo("Asia/Ho_Chi_Minh"))
    with pytest.raises(RenderError) as error:
        environment.compile_text(text).render({"new": Row(new, "new"), "old": None})
    assert VIETNAMESE.search(in_vietnamese(str(error.value)))


@pytest.mark.parametrize("why", ["the row is gone", "status, total changed since"])
def test_a_recheck(why: str) -> None:
    assert in_vietnamese(f"recheck: {why}").startswith("xem lại trước khi gửi: ")

"""The entries of a timeline as sentences, in Vietnamese or English."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from listener.database import dumps_exact
from listener.pauses import endless
from listener.reasons import in_vietnamese
from listener.why import Entry, Fate, Kind, Silence, WaitsFor
from listener.words import moment

_LONGEST = 60


class Language(StrEnum):
    VIETNAMESE = "vi"
    ENGLISH = "en"


def sentence(entry: Entry, language: Language) -> str:
    """What happened, in one sentence; it ends without a line break."""
    words = _WORDS[language]
    facts = {**entry.facts}
    if facts.get("reason"):
        facts["reason"] = words.reason(facts["reason"])
    match entry.kind:
        case Kind.CHANGE:
            return _change(facts, words)
        case Kind.VERDICT:
            return words.verdicts[facts["silence"]].format(**facts)
        case Kind.MESSAGE:
            return _message(facts, words)
        case Kind.ATTEMPT:
            outcome = words.outcomes[facts["outcome"] or "open"].format(status=facts["http_status"])
            detail = facts["detail"]
            told = (
                f" ({words.reason(detail)})" if detail and facts["outcome"] not in ("accepted", "rate_limited") else ""
            )
            return words.attempt.format(n=facts["n"], message_id=facts["message_id"], outcome=outcome) + told + "."
        case Kind.PAUSE:
            targets = ", ".join(words.target(target) for target in facts["targets"] if target)
            until = words.until.format(moment=moment(facts["until"])) if facts["until"] else ""
            reason = f": {facts['reason']}" if facts["reason"] else ""
            return words.pauses[facts["verb"]].format(who=facts["who"], targets=targets) + until + reason + "."
        case Kind.SUPPRESSION:
            return words.suppression.format(**facts)


def _change(facts: Mapping[str, Any], words: "_Words") -> str:
    told = "; ".join(f"{c}: {_value(old)} → {_value(new)}" for c, old, new in facts["differences"])
    if facts["op"] != "update":
        told = "; ".join(
            f"{c}: {_value(new if facts['op'] == 'insert' else old)}" for c, old, new in facts["differences"]
        )
    text = words.changes[facts["op"]].format(watch=facts["watch"], key=facts["key"]) + (f" ({told})" if told else "")
    fate = words.fates[facts["fate"]].format(reason=facts["reason"])
    note = f" {facts['reason']}." if facts["fate"] is Fate.MATCHED and facts["reason"] else ""
    return f"{text}.{fate}{note}"


def _until(end: datetime | None, words: "_Words") -> str:
    """The end of a pause."""
    return words.forever if end is None or endless(end) else moment(end)


def _value(value: Any) -> str:
    """A value of the row: a text and a number as they are, anything else as JSON."""
    match value:
        case str():
            text = value
        case Decimal():
            text = format(value, "f")
        case _:
            text = dumps_exact(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _message(facts: Mapping[str, Any], words: "_Words") -> str:
    head = words.message.format(id=facts["id"], rule=facts["rule"], phone=facts["phone"] or words.nobody)
    head += words.redirected if facts["redirected"] else ""
    key = f"waiting:{facts['waits_for']}" if facts["state"] == "waiting" else facts["state"]
    known = {
        **facts,
        "due": moment(facts["due_at"]) if facts["due_at"] else "-",
        "settled": moment(facts["settled_at"]) if facts["settled_at"] else "-",
        "paused": _until(facts.get("paused_until"), words),
        "reason": facts["reason"] or words.no_reason,
        "ticket": facts["ticket_id"] or "-",
    }
    note = f" ({facts['reason']})" if facts["state"] == "accepted" and facts["reason"] else ""
    return f"{head} {words.states[key].format(**known)}{note}."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """One language: sentences with places for facts, by what they tell of."""

    reason: Callable[[str], str]
    changes: Mapping[str, str]
    fates: Mapping[str, str]
    verdicts: Mapping[str, str]
    message: str
    nobody: str
    redirected: str
    no_reason: str
    states: Mapping[str, str]
    forever: str
    attempt: str
    outcomes: Mapping[str, str]
    pauses: Mapping[str, str]
    until: str
    targets: Mapping[str, str]
    suppression: str

    def target(self, text: str) -> str:
        """`rule low_balance` as the audit writes it, in this language."""
        word, _, name = text.partition(" ")
        return f"{self.targets.get(word, word)} {name}".strip()


_WORDS: dict[Language, _Words] = {
    Language.ENGLISH: _Words(
        reason=str,
        changes={
            "insert": "{watch} {key} was added",
            "update": "{watch} {key} changed",
            "delete": "{watch} {key} was deleted",
        },
        fates={
            Fate.MATCHED: "",
            Fate.WAITING: " It waits to be matched with the rules.",
            Fate.MUTED: " It was kept apart, so no rule saw it: {reason}.",
        },
        verdicts={
            Silence.SAID: "The rule {rule} sent nothing: {reason}.",
            Silence.BY_LOOKUP: "The rule {rule} sent nothing: {reason} (what the lookup found then is not kept).",
            Silence.GONE: "The rule {rule} applies, but its message is not kept any more.",
        },
        message="Message {id} of the rule {rule} to {phone}",
        nobody="nobody",
        redirected=" (the rule's `redirect_to`)",
        no_reason="no reason is kept",
        states={
            f"waiting:{WaitsFor.QUIET}": "waits for the end of the quiet hours and goes at {due}",
            f"waiting:{WaitsFor.JOINING}": "waits until {due} for more changes to join it",
            f"waiting:{WaitsFor.RETRY}": "could not be sent yet and is tried again at {due}: {reason}",
            f"waiting:{WaitsFor.ACCOUNT}": "waits because the account {account} is paused until {paused}: {reason}",
            f"waiting:{WaitsFor.NO_ACCOUNT}": "waits in vain: the rules have no account {account} any more",
            f"waiting:{WaitsFor.TICKET}": "waits, until {paused} at most, for the ticket that an unanswered message "
            "before it may have made",
            f"waiting:{WaitsFor.TURN}": "waits for its turn",
            "sending": "is being sent",
            "accepted": "was accepted by CareSoft at {settled} on ticket {ticket}",
            "unknown": "was perhaps sent, so it is not sent again by itself: {reason}",
            "held": "is held until a person releases it: {reason}",
            "rejected": "was not sent because it cannot go: {reason}",
            "expired": "was not sent because it became too old: {reason}",
            "cancelled": "is over, a person cancelled it: {reason}",
            "superseded": "was not sent because something newer took its place: {reason}",
            "suppressed": "was not sent because it must not be: {reason}",
            "shadow": "was only shown, not sent: {reason}",
        },
        forever="somebody lets it go on",
        attempt="Request {n} of message {message_id}: {outcome}",
        outcomes={
            "open": "no outcome yet",
            "accepted": "accepted",
            "rejected": "refused by CareSoft with status {status}",
            "ticket_refused": "refused for its ticket, goes again without one",
            "not_sent": "nothing was sent",
            "rate_limited": "too many requests (429), goes again later",
            "locked_out": "CareSoft locked the account out for a while",
            "unauthorized": "CareSoft refused the token ({status})",
            "misconfigured": "CareSoft refused the account or the address ({status})",
            "unreachable": "CareSoft could not be reached",
            "unknown": "no clear answer was seen",
        },
        pauses={"pause": "{who} paused {targets}", "resume": "{who} let {targets} go on"},
        until=" until {moment}",
        targets={"everything": "everything", "account": "the account", "rule": "the rule", "phone": "the phone"},
        suppression="{who} put {phone} on the suppression list: {reason}.",
    ),
    Language.VIETNAMESE: _Words(
        reason=in_vietnamese,
        changes={
            "insert": "{watch} {key} được thêm mới",
            "update": "{watch} {key} thay đổi",
            "delete": "{watch} {key} bị xóa",
        },
        fates={
            Fate.MATCHED: "",
            Fate.WAITING: " Thay đổi này đang chờ được xét theo các quy tắc.",
            Fate.MUTED: " Thay đổi này được để riêng nên không quy tắc nào được xét: {reason}.",
        },
        verdicts={
            Silence.SAID: "Quy tắc {rule} không gửi tin: {reason}.",
            Silence.BY_LOOKUP: "Quy tắc {rule} không gửi tin: {reason} (dữ liệu lookup lúc đó không được lưu lại).",
            Silence.GONE: "Quy tắc {rule} có áp dụng, nhưng tin của nó không còn được lưu.",
        },
        message="Tin {id} của quy tắc {rule} tới {phone}",
        nobody="(chưa rõ số)",
        redirected=" (số `redirect_to` của quy tắc)",
        no_reason="không rõ lý do",
        states={
            f"waiting:{WaitsFor.QUIET}": "đang chờ hết giờ yên lặng, sẽ gửi lúc {due}",
            f"waiting:{WaitsFor.JOINING}": "đang chờ đến {due} để gộp với các thay đổi tiếp theo",
            f"waiting:{WaitsFor.RETRY}": "chưa gửi được, sẽ thử lại lúc {due}: {reason}",
            f"waiting:{WaitsFor.ACCOUNT}": "đang chờ vì tài khoản {account} tạm dừng đến {paused}: {reason}",
            f"waiting:{WaitsFor.NO_ACCOUNT}": "không gửi được: tệp quy tắc không còn tài khoản {account}",
            f"waiting:{WaitsFor.TICKET}": "đang chờ, lâu nhất đến {paused}, phiếu mà tin trước chưa rõ kết quả "
            "có thể đã tạo",
            f"waiting:{WaitsFor.TURN}": "đang chờ đến lượt gửi",
            "sending": "đang được gửi",
            "accepted": "đã được CareSoft nhận lúc {settled}, trên phiếu {ticket}",
            "unknown": "có thể đã gửi rồi nên không tự gửi lại: {reason}",
            "held": "đang bị giữ, chờ người cho gửi: {reason}",
            "rejected": "không gửi được: {reason}",
            "expired": "không gửi nữa vì đã quá hạn: {reason}",
            "cancelled": "đã khép lại, có người hủy: {reason}",
            "superseded": "không gửi vì đã có tin hoặc thay đổi mới hơn: {reason}",
            "suppressed": "không được phép gửi: {reason}",
            "shadow": "chỉ để xem, không gửi thật: {reason}",
        },
        forever="khi có người cho chạy lại",
        attempt="Lần gửi {n} của tin {message_id}: {outcome}",
        outcomes={
            "open": "chưa có kết quả",
            "accepted": "CareSoft đã nhận",
            "rejected": "CareSoft từ chối, mã {status}",
            "ticket_refused": "CareSoft không nhận phiếu này, sẽ gửi lại không kèm phiếu",
            "not_sent": "chưa gửi đi",
            "rate_limited": "quá nhiều yêu cầu (429), sẽ gửi lại sau",
            "locked_out": "CareSoft tạm khóa tài khoản",
            "unauthorized": "CareSoft từ chối token ({status})",
            "misconfigured": "CareSoft từ chối tài khoản hoặc địa chỉ ({status})",
            "unreachable": "không kết nối được với CareSoft",
            "unknown": "không nhận được câu trả lời rõ ràng",
        },
        pauses={"pause": "{who} tạm dừng {targets}", "resume": "{who} cho {targets} chạy lại"},
        until=" đến {moment}",
        targets={"everything": "mọi thứ", "account": "tài khoản", "rule": "quy tắc", "phone": "số"},
        suppression="{who} đưa số {phone} vào danh sách không gửi tin: {reason}.",
    ),
}

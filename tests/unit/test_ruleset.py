"""One change to the messages it makes: recipients, texts, times, modes, tickets, threads, and why there are none."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from listener.model import Change, Mode, Op, State
from listener.rules import parse
from listener.rules.judging import Found, Planned, Verdict
from listener.rules.ruleset import RuleSet, compile_rules
from listener.templates import Missing, Row

HEAD = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}
  dear: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12, parts: {unaccented: [50, 100]}}
defaults: {account: main}
watch:
  w:
    table: public.t
    columns: [x, y]
    key: id
    events: [insert, update, delete]
    lookup: {who: "SELECT phone FROM public.people WHERE id = %(owner)s"}
  v: {table: public.v, columns: [x]}
rules:
"""
NOON = datetime(2026, 11, 22, 5, tzinfo=UTC)
ROW = {"id": "K1", "x": "b", "y": Decimal(5), "phone": "0980000000", "note": None, "ticket": None}


def rules(**by_name: dict[str, Any]) -> RuleSet:
    """A rule set; each rule has the watch w, a phone and a text unless it says otherwise."""
    lines = [
        f"  {name}: {json.dumps({'on': 'w', 'to': 'new.phone', 'text': 'ok {{ new.id }}', **rule}, ensure_ascii=False)}"
        for name, rule in by_name.items()
    ]
    return compile_rules(parse(HEAD + "\n".join(lines), "rules.yaml"))


def change(old: dict[str, Any] | None = None, at: datetime = NOON, **new: Any) -> Change:
    """An update from `x: a` unless `old` is given; `new` differs from ROW."""
    row = {**ROW, **new}
    return Change(id=7, watch="w", op=Op.UPDATE, key=row["id"], old=old or {**row, "x": "a"}, new=row, at=at)


def verdicts(ruleset: RuleSet, asked: Change, found: Found | None = None, **more: Any) -> list[Verdict]:
    return list(ruleset.verdicts(asked, found or {}, more.pop("now", asked.at), **more))


def one(rule: dict[str, Any], asked: Change | None = None, **more: Any) -> Verdict:
    """What the only rule says."""
    [verdict] = verdicts(rules(r=rule), asked or change(), **more)
    return verdict


def made(rule: dict[str, Any], asked: Change | None = None, **more: Any) -> Planned:
    """The only message."""
    [message] = one(rule, asked, **more).messages
    return message


def refused(rule: dict[str, Any], asked: Change | None = None, **more: Any) -> str:
    """Why the only message is rejected."""
    message = made(rule, asked, **more)
    assert message.state is State.REJECTED
    assert message.reason is not None
    return message.reason


def test_a_message_in_full() -> None:
    message = made({"text": "Đơn {{ new.id }}: {{ new.y | vnd }}", "priority": "urgent", "if_unsure": "resend"})
    assert message == Planned(
        rule="r",
        account="main",
        thread="w:K1",
        state=State.WAITING,
        phone="0980000000",
        text="Don K1: 5 VND",
        parts=1,
        encoding="GSM-7",
        priority=0,
        due_at=NOON,
        expires_at=NOON + timedelta(hours=6),
        if_unsure="resend",
    )


def test_a_rule_without_conditions_answers_every_change() -> None:
    assert made({}).state is State.WAITING
    insert = Change(id=1, watch="w", op=Op.INSERT, key="K1", old=None, new=ROW, at=NOON)
    assert made({}, insert).state is State.WAITING
    delete = Change(id=1, watch="w", op=Op.DELETE, key="K1", old=ROW, new=None, at=NOON)
    assert made({"to": "old.phone", "text": "{{ op }} {{ old.id }}"}, delete).text == "delete K1"
    assert refused({}, delete) == 'new is NULL and has no "id"'


def test_conditions_stop_a_rule_with_a_reason() -> None:
    assert one({"change": {"x": {"to": "c"}}}).reason == "x is not c now"
    assert one({"change": {"x": {"to": "b"}, "y": {"to": 6}}}).reason == "y did not change"
    assert one({"when": "new.y > 5"}).reason == "`when` is not true: new.y > 5"
    assert one({"change": {"x": {"to": "b"}}, "when": "new.y == 5"}).messages
    assert one({"change": {"x": {"to": "c"}}, "when": "new.nothing"}).reason == "x is not c now"


@pytest.mark.parametrize("value", ["None", "''", "0", "false", "[]"])
def test_what_counts_as_not_true(value: str) -> None:
    assert one({"when": value.replace("None", "none")}).messages == ()


# -- recipients


def test_several_recipients_and_nobody_twice() -> None:
    asked = change(p2="+84 980 000 000", p3="0912345678", p4=None, p5="024 3825 1234", p6="(024) 3825 9999")
    to = ["new.phone", "new.p2", "new.p3", "new.p4", "new.p5", "new.p6", "'0912.345.678'"]
    messages = one({"to": to}, asked).messages
    assert [(m.phone, m.state) for m in messages] == [
        ("0980000000", State.WAITING),
        ("0912345678", State.WAITING),
        # two landlines are one reason
        (None, State.REJECTED),
    ]
    assert messages[2].reason == "this is a landline, which cannot receive SMS; it reads 024***234"
    # the text stays visible on it
    assert messages[2].text == "ok K1"


def test_no_phone_at_all_is_a_rejection_and_one_missing_beside_another_is_not() -> None:
    assert refused({"to": ["new.note", "new.ticket"]}) == "there is no phone number"
    assert made({"to": ["new.note", "new.phone"]}).phone == "0980000000"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "there is no phone number"),
        ("", "there is no phone number"),
        ("0912", "the number of digits is wrong; a Vietnamese mobile number has 10"),
        (Decimal("9.5"), "this is not one phone number: it may hold digits"),
        (True, "this is not one phone number"),
        ({"mobile": "0912345678"}, "this is not one phone number"),
        (["0912345678"], "this is not one phone number"),
        ("01692345678", "this old 11-digit number was replaced in 2018"),
    ],
)
def test_a_phone_that_cannot_get_it(value: object, reason: str) -> None:
    assert refused({}, change(phone=value)).startswith(reason)


def test_a_phone_that_lost_its_zero_in_a_number_column() -> None:
    assert made({}, change(phone=Decimal(980000000))).phone == "0980000000"
    assert made({"migrate_old": True}, change(phone="01692345678")).phone == "0392345678"


def test_a_lookup_without_a_row_is_the_reason() -> None:
    none = {"who": Missing("lookup who found no row")}
    assert refused({"to": "who.phone"}, found=none) == "lookup who found no row"
    assert refused({"text": "{{ who.name }}"}, found=none) == "lookup who found no row"
    # but it can be asked for
    assert one({"when": "who is not none", "to": "who.phone"}, found=none).messages == ()
    assert made({"to": "who.phone"}, found={"who": Row({"phone": "0912345678"}, "who")}).phone == "0912345678"


# -- texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ new.note }}", "new.note is NULL"),
        ("{{ new.note | vnd }}", "new.note is NULL"),
        ("{{ new.nothing }}", 'new has no column "nothing"'),
        ("{{ new.x | vnd }}", "new.x: the text is not a plain number"),
        ("{% if new.note %}x{% endif %}", "the text is empty"),
        ("{% if new.note %}x{% endif %}  \n", "the text is empty"),
        ("{{ '🎉' }}", "the text is empty"),
        ("{{ 'a' * 307 }}", "the text is too long: 3 parts, the rule allows 2"),
        ("{{ 'a' * 1001 }}", "the text is too long: 1001 characters, CareSoft takes 1000"),
    ],
)
def test_a_text_that_cannot_go_is_rejected_with_the_reason(text: str, reason: str) -> None:
    assert refused({"text": text}).startswith(reason)


def test_accents_and_parts() -> None:
    assert made({"text": "{{ 'ạ' * 71 }}"}).parts == 1
    kept = made({"text": "{{ 'ạ' * 71 }}", "accents": "keep"})
    assert (kept.parts, kept.encoding) == (2, "UCS-2")
    # the account's own table
    assert made({"text": "{{ 'a' * 51 }}", "account": "dear"}).parts == 2
    assert refused({"text": "{{ 'ạ' * 135 }}", "accents": "keep"}) == "the text is too long: 3 parts, the rule allows 2"


def test_a_text_too_long_keeps_every_recipient() -> None:
    messages = one({"to": ["new.phone", "'0912345678'"], "text": "{{ 'a' * 999 }}"}).messages
    assert [(m.phone, m.state) for m in messages] == [
        ("0980000000", State.REJECTED),
        ("0912345678", State.REJECTED),
    ]


def test_dates_are_shown_in_the_rules_zone() -> None:
    assert made({"text": "{{ at | datetime }}"}).text == "22/11/2026 12:00"
    assert made({"text": "{{ at | datetime }}", "time_zone": "Europe/Berlin"}).text == "22/11/2026 06:00"


# -- times

NIGHT = {"quiet_hours": {"from": "21:00", "to": "07:00"}}
AT_NIGHT = datetime(2026, 11, 22, 15, tzinfo=UTC)
MORNING = datetime(2026, 11, 23, 0, tzinfo=UTC)


def test_quiet_hours_put_it_off_and_expiry_counts_from_their_end() -> None:
    message = made(NIGHT, change(at=AT_NIGHT))
    assert (message.due_at, message.expires_at) == (MORNING, MORNING + timedelta(hours=6))
    assert (message.quiet_at, message.quiet_until) == (MORNING + timedelta(hours=14), MORNING + timedelta(hours=24))


def test_a_change_matched_late_is_due_at_once() -> None:
    late = NOON + timedelta(hours=5)
    message = made({}, change(), now=late)
    assert (message.due_at, message.expires_at) == (late, NOON + timedelta(hours=6))


def test_a_change_of_the_night_matched_in_the_morning_is_not_too_old() -> None:
    message = made({**NIGHT, "expires": "1h"}, change(at=AT_NIGHT), now=MORNING + timedelta(minutes=30))
    assert (message.state, message.due_at) == (State.WAITING, MORNING + timedelta(minutes=30))


@pytest.mark.parametrize("words", [{}, {"coalesce": {"wait": "10s", "max_wait": "1m"}}])
def test_what_comes_into_the_quiet_on_its_way_is_sent_at_their_end(words: dict[str, Any]) -> None:
    begin = MORNING - timedelta(hours=10)
    made_at, matched_at = begin - timedelta(seconds=3), begin - timedelta(seconds=2) if words else begin
    message = made({**NIGHT, **words}, change(at=made_at), now=matched_at)
    assert (message.state, message.due_at) == (State.WAITING, MORNING)
    # As old at the end of the quiet as it was at their beginning.
    waited = timedelta(seconds=11 if words else 3)
    assert message.expires_at == MORNING + timedelta(hours=6) - waited


@pytest.mark.parametrize("late", [timedelta(hours=6), timedelta(days=3)])
def test_a_change_that_is_too_old_is_expired_and_not_lost(late: timedelta) -> None:
    message = made({}, change(), now=NOON + late)
    assert message.state is State.EXPIRED
    assert message.reason == "too old: the change is longer ago than `expires`"
    assert (message.text, message.phone) == ("ok K1", "0980000000")


def test_a_clock_behind_the_change_does_not_send_it_before_it_happened() -> None:
    assert made({}, change(), now=NOON - timedelta(hours=1)).due_at == NOON


# -- modes


@pytest.mark.parametrize(
    ("rule", "daemon", "state", "phone"),
    [
        ({}, Mode.LIVE, State.WAITING, "0980000000"),
        ({}, Mode.SHADOW, State.SHADOW, "0980000000"),
        ({"mode": "shadow"}, Mode.LIVE, State.SHADOW, "0980000000"),
        ({"mode": "redirect", "redirect_to": "0912345678"}, Mode.LIVE, State.WAITING, "0912345678"),
        ({"redirect_to": "0912345678"}, Mode.REDIRECT, State.WAITING, "0912345678"),
        ({}, Mode.REDIRECT, State.SHADOW, "0980000000"),
        ({"mode": "redirect", "redirect_to": "0912345678"}, Mode.SHADOW, State.SHADOW, "0980000000"),
        ({"mode": "allowlist", "allowlist": ["0980000000"]}, Mode.LIVE, State.WAITING, "0980000000"),
        ({"mode": "allowlist", "allowlist": ["0912345678"]}, Mode.LIVE, State.SUPPRESSED, "0980000000"),
        ({}, Mode.ALLOWLIST, State.SUPPRESSED, "0980000000"),
        ({"mode": "live"}, Mode.SHADOW, State.SHADOW, "0980000000"),
    ],
)
def test_the_more_careful_mode_wins(rule: dict[str, Any], daemon: Mode, state: State, phone: str) -> None:
    message = made(rule, mode=daemon)
    assert (message.state, message.phone) == (state, phone)
    assert (message.reason is None) is (state is State.WAITING)


def test_redirected_recipients_are_one_person() -> None:
    """One change can never make two messages to one person, not even to the one who watches the test."""
    rule = {"to": ["new.phone", "'0912345678'"], "mode": "redirect", "redirect_to": "0390000000"}
    [message] = one(rule).messages
    assert message.phone == "0390000000"


# -- tickets and threads


@pytest.mark.parametrize(
    ("value", "ticket"),
    [
        (None, None),
        ("", None),
        ("  \t", None),
        (Decimal(0), None),
        ("0", None),
        (Decimal(9410022), 9410022),
        (Decimal("9410022.00"), 9410022),
        ("  9410022 ", 9410022),
        ("0009410022", 9410022),
        (Decimal("1E+3"), 1000),
    ],
)
def test_the_erps_own_ticket(value: object, ticket: int | None) -> None:
    assert made({"ticket": {"id": "new.ticket"}}, change(ticket=value)).ticket == ticket


@pytest.mark.parametrize("value", ["T-55", Decimal("5.5"), Decimal(-5), "9" * 19, True, ["5"], "٥"])
def test_a_ticket_that_is_no_number_is_a_rejection(value: object) -> None:
    assert refused({"ticket": {"id": "new.ticket"}}, change(ticket=value)) == "ticket.id is not a whole number"


def test_threads() -> None:
    assert made({}).thread == "w:K1"
    assert made({"ticket": {"thread": "'KH' ~ new.y"}}).thread == "KH5"
    assert refused({"ticket": {"thread": "new.note"}}) == "ticket.thread gives nothing for this change"
    assert refused({"ticket": {"thread": "'  '"}}) == "ticket.thread gives nothing for this change"
    long = made({"ticket": {"thread": "new.x * 300"}})
    other = made({"ticket": {"thread": "new.x * 301"}})
    assert len(long.thread) == len(other.thread) == 200
    assert long.thread != other.thread
    assert long.thread[:183] == "b" * 183


def test_what_saves_the_ticket_gets_its_values() -> None:
    save = "UPDATE public.t SET ticket = %(ticket_id)s WHERE id = %(id)s"
    assert made({"ticket": {"save": save}}).save == {"ticket_id": None, "id": "K1"}


# -- several rules


def test_rules_answer_in_the_files_order_each_for_itself() -> None:
    said = verdicts(rules(a={}, bad={"text": "{{ new.note }}"}, c={"when": "false"}, d={"on": "v"}, e={}), change())
    assert [(v.rule, [m.state for m in v.messages], v.reason) for v in said] == [
        ("a", [State.WAITING], None),
        ("bad", [State.REJECTED], None),
        ("c", [], "`when` is not true: false"),
        ("e", [State.WAITING], None),
    ]


def test_of_a_group_only_the_first_that_fits_answers() -> None:
    group = {"first_match": "g"}
    said = verdicts(
        rules(a={**group, "when": "false"}, b=group, c=group, d={}, e={"first_match": "h"}, f=group), change()
    )
    assert [v.rule for v in said if v.messages] == ["b", "d", "e"]
    assert {v.reason for v in said if v.rule in "cf"} == {"an earlier rule of the group g has answered"}


def test_a_rule_of_a_group_that_rejects_has_answered() -> None:
    group = {"first_match": "g"}
    said = verdicts(rules(a={**group, "to": "new.note"}, b=group), change())
    assert [v.rule for v in said if v.messages] == ["a"]


def test_a_rule_that_is_off_says_nothing_unless_it_is_asked_alone() -> None:
    ruleset = rules(on={}, off={"enabled": False})
    assert [v.rule for v in verdicts(ruleset, change())] == ["on"]
    assert [v.rule for v in verdicts(ruleset.only("off"), change())] == ["off"]


def test_the_columns_that_are_needed() -> None:
    ruleset = rules(
        a={"change": {"y": {"to": 1}}, "when": "old.w", "to": "new.p", "text": "{{ new['q'] }}"},
        b={"ticket": {"id": "new.t", "thread": "old.th", "save": "UPDATE t SET k = %(ticket_id)s WHERE i = %(sid)s"}},
    )
    assert ruleset.used_columns("w") == {
        "id", "x", "y", "w", "p", "q", "t", "th", "sid", "owner", "phone",
    }  # fmt: skip
    assert rules(a={"text": "{{ new.values }}", "when": "new"}).used_columns("w") is None


def test_a_hostile_name_is_only_text() -> None:
    name = "{{ 1/0 }} {% for %} ${TOKEN} '; DROP TABLE x; --"
    assert made({"text": "{{ new.x }}"}, change(x=name)).text == name

"""Negative controls: every promise goes red on evidence of a broken product, and only that one does."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.checker import Acceptance, Attempt, Evidence, Message, broken
from tests.support.erp_driver import Fate, Write

START = datetime(2026, 11, 22, 3, tzinfo=UTC)


def evidence() -> Evidence:
    """Three orderly messages of one key, the first of which made the ticket; one write that was rolled back."""
    texts = ["one", "two", "three"]
    return Evidence(
        writes=[_write(n, text) for n, text in enumerate(texts)] + [_write(3, "never", Fate.ROLLED_BACK)],
        committed=frozenset(texts),
        outbox=0,
        messages=[Message(id=n, text=text, thread="k", state="accepted", ticket=7) for n, text in enumerate(texts)],
        attempts=[_attempt(n, text) for n, text in enumerate(texts)],
        acceptances=[_acceptance(n, text) for n, text in enumerate(texts)],
        arrivals=[0.0, 1.0, 2.0],
        canaries={"phone": "980000000"},
        outputs={"the log": "sent to 098***000"},
        plain_seconds=[0.001] * 9,
        captured_seconds=[0.002] * 9,
    )


def _write(n: int, body: str, fate: Fate = Fate.ACKNOWLEDGED) -> Write:
    return Write(number=n, key="k", body=body, fate=fate, began=float(n), ended=n + 0.5)


def _attempt(n: int, text: str) -> Attempt:
    return Attempt(
        text=text,
        thread="k",
        n=1,
        leased_at=START + timedelta(seconds=n),
        ended_at=START + timedelta(seconds=n + 0.5),
        took=timedelta(seconds=0.4),
        outcome="accepted",
        ticket_sent=7 if n else None,
        ticket_received=7,
    )


def _acceptance(n: int, text: str) -> Acceptance:
    return Acceptance(text=text, arrived=float(n), ticket_sent=7 if n else None, ticket=7)


def _state(e: Evidence, state: str) -> Evidence:
    return replace(e, messages=[replace(e.messages[0], state=state), *e.messages[1:]])


BREAKS: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "a change without a message": ("I1", lambda e: replace(e, committed=e.committed | {"four"})),
    "a change with two messages": ("I1", lambda e: replace(e, messages=[*e.messages, e.messages[0]])),
    "a message of a rolled-back change": (
        "I1",
        lambda e: replace(
            e, messages=[*e.messages, Message(id=9, text="never", thread="k", state="unknown", ticket=None)]
        ),
    ),
    "a change that nobody matched": ("I1", lambda e: replace(e, outbox=1)),
    "an acknowledged write that the server lost": (
        "I1",
        lambda e: replace(e, writes=[*e.writes, _write(4, "gone")]),
    ),
    "an SMS sent twice": ("I2", lambda e: replace(e, acceptances=[*e.acceptances, e.acceptances[2]])),
    "called accepted, never sent": (
        "I3",
        lambda e: replace(e, acceptances=e.acceptances[:2]),
    ),
    "sent, called rejected": ("I3", lambda e: _state(e, "rejected")),
    "sent, called expired": ("I3", lambda e: _state(e, "expired")),
    "another ticket on record": (
        "I4",
        lambda e: replace(e, messages=[replace(e.messages[0], ticket=8), *e.messages[1:]]),
    ),
    "sent without the ticket that was known": (
        "I4",
        lambda e: replace(e, attempts=[*e.attempts[:2], replace(e.attempts[2], ticket_sent=None)]),
    ),
    "a later change arrived first": (
        "I5",
        lambda e: replace(e, acceptances=[replace(e.acceptances[0], arrived=5.0), *e.acceptances[1:]]),
    ),
    "two of a thread at a time": (
        "I5",
        lambda e: replace(e, attempts=[replace(e.attempts[0], took=timedelta(seconds=1.2)), *e.attempts[1:]]),
    ),
    "the next of a thread while nobody knew the end of one": (
        "I5",
        lambda e: replace(e, attempts=[replace(e.attempts[0], took=None, ended_at=None), *e.attempts[1:]]),
    ),
    "16 requests in a second": ("I6", lambda e: replace(e, arrivals=[n / 17 for n in range(16)])),
    "a request that the gateway refused for the rate": ("I6", lambda e: replace(e, refusals=1)),
    "a failed ERP statement": ("I7", lambda e: replace(e, erp_errors=["42501 InsufficientPrivilege"])),
    "a missed capture": ("I7", lambda e: replace(e, capture_failures=1)),
    "slow ERP writes": ("I7", lambda e: replace(e, captured_seconds=[0.02] * 9)),
    "a phone in a log": ("I8", lambda e: replace(e, outputs={"the log": "sent to 0980000000"})),
    "a replica that ended by itself": ("I9", lambda e: replace(e, exits=[1])),
    "a backlog that stays": ("I9", lambda e: replace(e, backlog=9, drained=None)),
    "a backlog that drains too slowly": ("I9", lambda e: replace(e, backlog=96, drained=41.0)),
}


def test_orderly_evidence_is_green() -> None:
    assert broken(evidence()) == []


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_product_is_seen(what: str) -> None:
    promise, harm = BREAKS[what]
    found = broken(harm(evidence()))
    assert {sentence[:2] for sentence in found} == {promise}, found


@pytest.mark.parametrize("state", ["waiting", "sending"])
def test_a_message_without_an_end_is_lost_and_untrue(state: str) -> None:
    found = broken(_state(evidence(), state))
    assert {sentence[:2] for sentence in found} == {"I1", "I3"}, found


def test_overlapping_transactions_have_no_order() -> None:
    e = evidence()
    writes = [replace(e.writes[0], ended=1.2), *e.writes[1:]]
    late = [replace(e.acceptances[0], arrived=1.5), *e.acceptances[1:]]
    assert broken(replace(e, writes=writes, acceptances=late)) == []


def test_what_proved_to_be_unsent_after_the_sweep_may_come_later() -> None:
    e = evidence()
    late = [replace(e.acceptances[0], arrived=5.0), *e.acceptances[1:]]
    woken = replace(e.attempts[0], outcome="not_sent", ended_at=START + timedelta(seconds=20), took=None)
    calm = [replace(a, leased_at=a.leased_at + timedelta(seconds=30), ended_at=None) for a in e.attempts[1:]]
    calm = [replace(a, ended_at=a.leased_at + timedelta(seconds=0.1)) for a in calm]
    again = replace(e.attempts[0], n=2, leased_at=START + timedelta(seconds=60), ended_at=START + timedelta(seconds=61))
    attempts = [woken, *calm, replace(again, ticket_sent=7)]
    assert broken(replace(e, acceptances=late, attempts=attempts)) == []
    asleep = replace(woken, ended_at=START + timedelta(seconds=1))
    assert {s[:2] for s in broken(replace(e, acceptances=late, attempts=[asleep, *attempts[1:]]))} == {"I5"}


def test_a_permitted_repeat_and_a_late_answer_are_fine() -> None:
    e = evidence()
    # The answer to the first came long after the sweep had let the second go.
    late = replace(e.attempts[0], took=None, ended_at=START + timedelta(seconds=30), outcome="unknown")
    calm = replace(e.attempts[1], leased_at=START + timedelta(seconds=7), ended_at=START + timedelta(seconds=8))
    last = replace(e.attempts[2], leased_at=START + timedelta(seconds=9), ended_at=START + timedelta(seconds=10))
    messages = [replace(e.messages[0], state="unknown"), *e.messages[1:]]
    assert broken(replace(e, attempts=[late, calm, last], messages=messages)) == []
    assert broken(replace(e, acceptances=[*e.acceptances, e.acceptances[2]], repeats=1)) == []


def test_what_arrived_while_the_bench_stood_still_is_not_held_against_the_pace() -> None:
    arrivals = [n / 17 for n in range(16)]
    assert broken(replace(evidence(), arrivals=arrivals, stalls=[(0.5, 0.8)])) == []

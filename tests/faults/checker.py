"""The promises, each a function of the evidence: it returns what is broken, in sentences.

Nothing here does I/O, so that every promise can be shown broken evidence and be seen to go red.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from tests.support.erp_driver import Fate, Write

PER_SECOND = 15
PER_HOUR = 54_000
# sentences of one promise that are shown
SHOWN = 5

SETTLED = frozenset({"accepted", "rejected", "expired", "unknown", "held"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    id: int
    text: str
    thread: str
    state: str
    ticket: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A permit; times are the database's. `ended_at` is when its outcome was written down last, `took` how long its
    request did, None when nobody saw it end."""

    text: str
    thread: str
    n: int
    leased_at: datetime
    ended_at: datetime | None
    took: timedelta | None
    outcome: str | None
    ticket_sent: int | None
    ticket_received: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A message that the gateway took: `arrived` is when its request did, seconds on the gateway's clock."""

    text: str
    arrived: float
    ticket_sent: int | None
    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known when a case is over. `committed` are the bodies in the ERP's table."""

    writes: Sequence[Write]
    committed: frozenset[str]
    outbox: int
    messages: Sequence[Message]
    attempts: Sequence[Attempt]
    acceptances: Sequence[Acceptance]
    # of every request that reached the gateway, also refused ones
    arrivals: Sequence[float]
    refusals: int = 0
    # (from, to): the bench itself stood still, and what arrived meanwhile was seen at the end of it
    stalls: Sequence[tuple[float, float]] = ()
    # the database's own: how long a permit lasts before the sweep ends it
    deadline: timedelta = timedelta(seconds=6)
    # automatic repeats that the rule allows after an unclear answer
    repeats: int = 0
    erp_errors: Sequence[str] = ()
    capture_failures: int = 0
    # seconds of ERP writes without and with capture, where they were measured
    plain_seconds: Sequence[float] = ()
    captured_seconds: Sequence[float] = ()
    canaries: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    # exits of replicas that nobody asked for
    exits: Sequence[int] = ()
    # when the last fault was gone: what waited, the pace, and how long until nothing did (None: never)
    backlog: int = 0
    rate: float = 12.0
    drained: float | None = 0.0
    # unknown ones of a thread without a ticket hold their followers back on purpose
    patience: float = 30.0


Check = Callable[[Evidence], Iterable[str]]


def nothing_lost(e: Evidence) -> Iterable[str]:
    """I1: every committed change has exactly one message, which came to an end; no rolled-back one has any."""
    messages = Counter(m.text for m in e.messages)
    for write in e.writes:
        if write.fate is Fate.ACKNOWLEDGED and write.body not in e.committed:
            yield f"write {write.number} was acknowledged and is not in the ERP's table (the server lost it)"
    for body in sorted(e.committed):
        if messages[body] != 1:
            yield f"a committed change has {messages[body]} messages: {body}"
    for text in sorted(set(messages) - e.committed):
        yield f"a message of a change that was never committed: {text}"
    for m in e.messages:
        if m.state not in SETTLED:
            yield f"message {m.id} is still {m.state}"
    if e.outbox:
        yield f"{e.outbox} changes were never matched"


def nothing_twice(e: Evidence) -> Iterable[str]:
    """I2: a message is accepted at most once, and once more for each permitted repeat."""
    for text, n in Counter(a.text for a in e.acceptances).items():
        if n > 1 + e.repeats:
            yield f"accepted {n} times: {text}"


def truth(e: Evidence) -> Iterable[str]:
    """I3: what is called accepted was accepted; what was accepted is called accepted or unknown."""
    accepted = {a.text for a in e.acceptances}
    for m in e.messages:
        if m.state == "accepted" and m.text not in accepted:
            yield f"message {m.id} is called accepted; the gateway never took it"
        if m.text in accepted and m.state not in ("accepted", "unknown"):
            yield f"message {m.id} was accepted and is called {m.state}"


def tickets(e: Evidence) -> Iterable[str]:
    """I4: the ticket on record is the gateway's; what is sent after a thread's ticket is known carries it."""
    given = defaultdict(set)
    for taken in e.acceptances:
        given[taken.text].add(taken.ticket)
    for m in e.messages:
        if m.state == "accepted" and m.text in given and m.ticket not in given[m.text]:
            yield f"message {m.id} has ticket {m.ticket}, the gateway gave {sorted(given[m.text])}"
    for thread, attempts in _by_thread(e.attempts).items():
        known = [a for a in attempts if a.outcome == "accepted" and a.ended_at is not None]
        if not known:
            continue
        first = min(known, key=lambda a: a.ended_at or a.leased_at)
        ticket, since = first.ticket_received, first.ended_at
        for a in attempts:
            if since is not None and a.leased_at > since and a.ticket_sent != ticket:
                yield f"thread {thread}: sent on ticket {a.ticket_sent}, its first was {ticket}: {a.text}"


def order(e: Evidence) -> Iterable[str]:
    """I5: accepted messages of a key arrive in the order of transactions that did not overlap, one at a time."""
    first: dict[str, float] = {}
    for acceptance in e.acceptances:
        first[acceptance.text] = min(acceptance.arrived, first.get(acceptance.text, acceptance.arrived))
    # Given up by the sweep, others went on; found to be unsent after all, it could only come later.
    passed = {
        a.text for a in e.attempts if a.outcome == "not_sent" and a.ended_at and a.ended_at > a.leased_at + e.deadline
    }
    by_key = defaultdict(list)
    for w in e.writes:
        if w.fate is Fate.ACKNOWLEDGED and w.body in first and w.body not in passed:
            by_key[w.key].append(w)
    for key, writes in by_key.items():
        # Of all that ended before a write began, the one that arrived last decides.
        ended = sorted(writes, key=lambda w: w.ended)
        place, last = 0, None
        for w in sorted(writes, key=lambda w: w.began):
            while place < len(ended) and ended[place].ended < w.began:
                if last is None or first[ended[place].body] > first[last.body]:
                    last = ended[place]
                place += 1
            if last is not None and first[last.body] > first[w.body]:
                yield f"key {key}: write {w.number} arrived before write {last.number}, which had ended before it began"
    for thread, attempts in _by_thread(e.attempts).items():
        earlier = sorted(attempts, key=lambda a: a.leased_at)
        for one, other in pairwise(earlier):
            if other.leased_at < _over(one, e.deadline):
                yield f"thread {thread}: two at a time: {one.text} and {other.text}"


def rate(e: Evidence, per_second: int = PER_SECOND) -> Iterable[str]:
    """I6: at most 15 requests in any sliding second, 54,000 in any sliding hour; the gateway never has to say so."""
    for seconds, limit in ((1.0, per_second), (3600.0, PER_HOUR)):
        most, at = most_within(e.arrivals, seconds)
        unseen = sum(min(end, at) - start for start, end in e.stalls if end > at - seconds and start < at)
        if most > limit + e.rate * unseen:
            yield f"{most} requests within {seconds:g} s (the bench itself stood still for {unseen:.2f} s of it)"
    if e.refusals:
        yield f"{e.refusals} requests were refused for the rate"


def erp_unharmed(e: Evidence) -> Iterable[str]:
    """I7: no error in the ERP that we caused, no capture missed, no write noticeably slower."""
    for error, n in Counter(e.erp_errors).items():
        yield f"{n} ERP statements failed: {error}"
    if e.capture_failures:
        yield f"{e.capture_failures} captures failed"
    if e.plain_seconds and e.captured_seconds:
        added = statistics.median(e.captured_seconds) - statistics.median(e.plain_seconds)
        if added > 0.005:
            yield f"capture adds {added * 1000:.1f} ms to a write"


def no_leak(e: Evidence) -> Iterable[str]:
    """I8: no key, phone, name or text in any output."""
    for where, output in e.outputs.items():
        for what, canary in e.canaries.items():
            if canary in output:
                line = next(line for line in output.splitlines() if canary in line)
                yield f"{where} shows the {what}: {line[:200]}"


def self_healing(e: Evidence) -> Iterable[str]:
    """I9: nobody had to help, and the backlog went at 80 % of the pace from 30 s after the last fault on."""
    for code in e.exits:
        yield f"a replica ended by itself with exit code {code}"
    if e.drained is None:
        yield f"a backlog of {e.backlog} never drained"
    elif e.drained > (limit := e.patience + e.backlog / (0.8 * e.rate)):
        yield f"a backlog of {e.backlog} took {e.drained:.0f} s to drain; allowed are {limit:.0f} s"


PROMISES: Mapping[str, Check] = {
    "I1 nothing lost": nothing_lost,
    "I2 nothing twice": nothing_twice,
    "I3 truth": truth,
    "I4 tickets": tickets,
    "I5 order": order,
    "I6 rate": rate,
    "I7 ERP unharmed": erp_unharmed,
    "I8 no leak": no_leak,
    "I9 self-healing": self_healing,
}


def broken(evidence: Evidence) -> list[str]:
    """Everything that is not as promised, each with the name of its promise; at most `SHOWN` of each."""
    found = []
    for name, check in PROMISES.items():
        sentences = list(check(evidence))
        found += [f"{name}: {sentence}" for sentence in sentences[:SHOWN]]
        if len(sentences) > SHOWN:
            found.append(f"{name}: ... and {len(sentences) - SHOWN} more")
    return found


def _over(attempt: Attempt, deadline: timedelta) -> datetime:
    """When its request was over. What was found out later than that, or than the sweep, is a fact and no request."""
    last = attempt.leased_at + deadline
    if attempt.took is not None:
        return min(attempt.leased_at + attempt.took, last)
    return min(attempt.ended_at, last) if attempt.ended_at is not None else last


def _by_thread(attempts: Sequence[Attempt]) -> Mapping[str, list[Attempt]]:
    found = defaultdict(list)
    for attempt in attempts:
        found[attempt.thread].append(attempt)
    return found


def most_within(times: Sequence[float], seconds: float) -> tuple[int, float]:
    """The most of `times` that any window of so many seconds holds, and when that window ends."""
    ordered = sorted(times)
    most, at, start = 0, 0.0, 0
    for end, time in enumerate(ordered):
        while time - ordered[start] >= seconds:
            start += 1
        if end - start + 1 > most:
            most, at = end - start + 1, time
    return most, at

"""What must be true after every step, whoever took it: a model of the promises I1 to I5, told of each step.

Nothing here does I/O. `check` compares what is remembered with what the tables show, and says what is broken.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What the rule of a change does; the first letter of its text."""

    HOLD = "h"
    RESEND = "r"
    # the newest of those close together, sent once more when unclear
    JOINED = "j"


@dataclass(slots=True, eq=False)
class Body:
    """One row that the ERP wrote; `began` and `ended` count transactions' beginnings and ends, `ended` None: open."""

    text: str
    topic: str
    kind: Kind
    began: int
    ended: int | None = None


@dataclass(slots=True, eq=False)
class Permit:
    """One permission to write one request. `open` until the database knows what became of it."""

    body: Body
    n: int
    open: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A message as the tables show it; "captured" is a change that is not matched yet."""

    text: str
    state: str
    ticket: int | None


@dataclass(slots=True)
class Model:
    """The gateway's ledger, the facts that were written down, and what people decided; all by text."""

    committed: dict[str, Body] = field(default_factory=dict)
    accepted: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    permits: list[Permit] = field(default_factory=list)
    # answers that were seen and written down
    facts: set[str] = field(default_factory=set)
    # further requests that a person asked for
    asked: Counter[str] = field(default_factory=Counter)
    # whose place in the order a person, or a proof that came late, has changed
    displaced: set[str] = field(default_factory=set)
    by_hand: set[str] = field(default_factory=set)
    # found to be no longer true right before a request
    outdated: set[str] = field(default_factory=set)
    # the first ticket that was written down for a topic; topics whose ticket was refused have no such rule
    tickets: dict[str, int] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    _order: list[Body] = field(default_factory=list)

    def permit(self, body: Body, n: int, ticket: int | None) -> Permit:
        """A permit was given, on `ticket`."""
        for other in self.permits:
            if other.open and other.body.topic == body.topic:
                self._say(f"I5: two of a thread at a time: {other.body.text} and {body.text}")
        if body.topic in self.tickets and body.topic not in self.spoiled and ticket != self.tickets[body.topic]:
            self._say(f"I4: {body.text} goes on ticket {ticket}, its topic's first was {self.tickets[body.topic]}")
        if body.text in self.facts:
            self._say(f"I2: a permit for {body.text}, which is known to be accepted")
        given = Permit(body, n)
        self.permits.append(given)
        return given

    def accept(self, body: Body, ticket: int, *, in_order: bool) -> None:
        """The gateway took a request; `in_order` when nothing held it up on its way."""
        first = not self.accepted[body.text]
        self.accepted[body.text].append(ticket)
        if not first:
            return
        if in_order and body.text not in self.displaced:
            for other in self._order:
                if _comes_later(other, body):
                    self._say(f"I5: {other.text} arrived before {body.text}, which had ended before it began")
        self._order.append(body)

    def fact(self, body: Body, ticket: int) -> None:
        """An answer that was seen is written down."""
        self.facts.add(body.text)
        self.tickets.setdefault(body.topic, ticket)

    def allowed(self, body: Body) -> int:
        """How many times the gateway may have accepted it."""
        return 1 + (body.kind is not Kind.HOLD) + self.asked[body.text]

    def check(self, messages: Sequence[Shown], *, over: bool = False) -> list[str]:
        """All that is broken; `over`: nothing is on its way any more. A person's pause displaces what it holds."""
        self.displaced |= {m.text for m in messages if m.state == "held"}
        return [*self.broken, *self._lost(messages, over), *self._twice(), *self._untrue(messages, over)]

    def _say(self, sentence: str) -> None:
        self.broken.append(sentence)

    def _lost(self, messages: Sequence[Shown], over: bool) -> Iterable[str]:
        count = Counter(m.text for m in messages)
        for text in self.committed:
            if count[text] != 1:
                yield f"I1: {text} is there {count[text]} times"
        for text in count.keys() - self.committed.keys():
            yield f"I1: {text} was never committed"
        if over:
            for m in messages:
                if m.state in ("captured", "waiting", "sending", "held"):
                    yield f"I1: {m.text} is still {m.state}"

    def _twice(self) -> Iterable[str]:
        for text, tickets in self.accepted.items():
            if len(tickets) > self.allowed(self.committed[text]):
                yield f"I2: {text} was accepted {len(tickets)} times"

    def _untrue(self, messages: Sequence[Shown], over: bool) -> Iterable[str]:
        for m in messages:
            given = self.accepted.get(m.text, [])
            if m.state == "accepted" and m.text not in self.by_hand:
                if not given:
                    yield f"I3: {m.text} is called accepted; the gateway never took it"
                elif m.ticket not in given:
                    yield f"I4: {m.text} has ticket {m.ticket}, the gateway gave {given}"
            if m.text in self.facts and m.state != "accepted" and (over or m.state != "sending"):
                yield f"I3: {m.text} is known to be accepted and is {m.state}"
            if given and m.state not in self._may_be(self.committed[m.text]):
                yield f"I3: {m.text} was accepted and is called {m.state}"
            joins = self.committed[m.text].kind is Kind.JOINED
            if m.state == "superseded" and not joins and m.text not in self.outdated:
                yield f"I3: {m.text} gave way to nothing"

    def _may_be(self, body: Body) -> set[str]:
        """The states of a message that the gateway has, as far as somebody may not know it."""
        states = {"accepted", "unknown", "sending"}
        if body.kind is not Kind.HOLD or self.asked[body.text]:
            states |= {"waiting"}
        if body.text in self.displaced:
            states |= {"held", "cancelled"}
        return states


def _comes_later(one: Body, other: Body) -> bool:
    """Whether `one` has to arrive after `other`: joined ones wait, and have an order among themselves."""
    joined = (one.kind is Kind.JOINED) == (other.kind is Kind.JOINED)
    return one.topic == other.topic and joined and other.ended is not None and other.ended < one.began

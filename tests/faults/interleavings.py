"""All that may happen, in any order: ERP transactions, matchers, replicas that lease, send, settle, die or come back
late, every answer of the gateway, time, and a person's hand. Every step is the product's own function on a real
database; after each one the model says what is broken.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from listener.interventions import Verb
from listener.model import Accepted, Lease, NotSent, Outcome, Rejected, Stale, TicketRefused
from listener.pauses import Target
from listener.settling import Result
from tests.faults.arena import MATCHERS, REPLICAS, SESSIONS, Arena, open_arena
from tests.faults.choices import (
    ANSWERS,
    ENDS,
    FIRST_ANSWERS,
    KIND,
    MATCHER,
    PICK,
    RARELY,
    REPLICA,
    SESSION,
    TAKES,
    TARGETS,
    TOPIC,
    TOPICS,
)
from tests.faults.model import Body, Kind, Model, Permit

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Held:
    """A permit as the replica that holds it knows it."""

    lease: Lease
    permit: Permit
    replica: int
    outcome: Outcome | None = None
    swept: bool = False


@dataclass(slots=True)
class Session:
    """An ERP transaction that is open: what it wrote, and what it had written at its savepoint."""

    began: int
    wrote: list[Body]
    at_savepoint: int | None = None


class Interleavings(RuleBasedStateMachine):
    """One example. `arena` is shared by all of a test, emptied for each.

    What may be chosen never depends on what the database says, so that the same choices can be made again.
    """

    arena: ClassVar[Arena]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.now = 0
        self.texts = 0
        self.gave = 0
        self.open: dict[int, Session] = {}
        self.held: list[Held] = []
        self.paused: Target | None = None

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def tick(self) -> int:
        self.now += 1
        return self.now

    @initialize()
    def begin(self) -> None:
        self.do(self.arena.empty())

    # -- the ERP

    @rule(session=SESSION, topic=TOPIC, kind=KIND)
    def writes(self, session: int, topic: str, kind: Kind) -> None:
        if session not in self.open:
            self.do(self.arena.erp_says(session, "BEGIN"))
            self.open[session] = Session(began=self.tick(), wrote=[])
        self._write(session, topic, kind)

    @rule(topic=TOPIC, kind=KIND)
    def writes_and_commits(self, topic: str, kind: Kind) -> None:
        session = next((n for n in range(SESSIONS) if n not in self.open), None)
        if session is not None:
            self.writes(session, topic, kind)
            self.commits(session)

    writes_more = writes_and_commits

    def _write(self, session: int, topic: str, kind: Kind) -> None:
        self.texts += 1
        transaction = self.open[session]
        body = Body(f"{kind.value}{self.texts}", topic, kind, began=transaction.began)
        self.do(self.arena.write(session, topic, body.text))
        transaction.wrote.append(body)

    @precondition(lambda self: self.open)
    @rule(session=SESSION)
    def sets_a_savepoint(self, session: int) -> None:
        if transaction := self.open.get(session):
            self.do(self.arena.erp_says(session, "SAVEPOINT s"))
            transaction.at_savepoint = len(transaction.wrote)

    @precondition(lambda self: any(s.at_savepoint is not None for s in self.open.values()))
    @rule(session=SESSION)
    def rolls_back_to_it(self, session: int) -> None:
        transaction = self.open.get(session)
        if transaction is not None and transaction.at_savepoint is not None:
            self.do(self.arena.erp_says(session, "ROLLBACK TO SAVEPOINT s"))
            del transaction.wrote[transaction.at_savepoint :]

    @precondition(lambda self: self.open)
    @rule(session=SESSION)
    def commits(self, session: int) -> None:
        if transaction := self.open.pop(session, None):
            self.do(self.arena.erp_says(session, "COMMIT"))
            ended = self.tick()
            for body in transaction.wrote:
                body.ended = ended
                self.model.committed[body.text] = body

    @precondition(lambda self: self.open)
    @rule(session=SESSION)
    def rolls_back(self, session: int) -> None:
        if self.open.pop(session, None):
            self.do(self.arena.erp_says(session, "ROLLBACK"))

    # -- replicas

    @rule(matcher=MATCHER, at_once=st.booleans())
    def matches(self, matcher: int, at_once: bool) -> None:
        """Few messages may be leased together with their making."""
        self._match(matcher, at_once)

    def _match(self, matcher: int, at_once: bool) -> list[Held]:
        stopped, probing = self.do(self.arena.account()) if at_once else (False, False)
        _, leases = self.do(self.arena.match(matcher, at_once=at_once))
        assert not ((stopped or probing) and leases), "a permit while the account is stopped"
        return [self._given(matcher, lease) for lease in leases]

    @rule(replica=REPLICA)
    def leases(self, replica: int) -> None:
        self._lease(replica)

    @rule(
        after=st.sampled_from([0.0, 11.0, 70.0]),
        news=st.lists(st.tuples(TOPIC, KIND), max_size=2),
        replica=REPLICA,
        at_once=st.booleans(),
        answers=st.lists(ANSWERS, min_size=3, max_size=3),
        end=ENDS,
    )
    def works(
        self, after: float, news: list[tuple[str, Kind]], replica: int, at_once: bool, answers: list[str], end: str
    ) -> None:
        """The usual way, as far as it comes: what is written is matched, leased, sent, and the outcome written down."""
        for topic, kind in news:
            self.writes_and_commits(topic, kind)
        if after:
            self.time_passes(after)
            self._sweep()
        mine = self._match(replica % MATCHERS, at_once) or self._lease(replica)
        for held, answer in zip(mine, answers, strict=False):
            self._send(held, answer)
        match end:
            case "written down" | "written down twice" if mine:
                self._settle(mine, 2 if end.endswith("twice") else 1)
            case "killed" if mine:
                self.is_killed(mine[0].replica)

    # What is listed more often is done more often.
    works_on = goes_on_working = keeps_working = works

    @rule(replica=REPLICA)
    def leases_without_hearing_of_it(self, replica: int) -> None:
        """The answer to the COMMIT is lost: nothing is sent, and what was armed is given back."""
        token, given = self.do(self.arena.lease(replica, len(TOPICS)))
        armed = self.do(self.arena.leased(replica, token))
        assert sorted(lease.message_id for lease in armed) == sorted(lease.message_id for lease in given)
        for lease in given:
            self._given(replica, lease).outcome = NotSent(cause="the database did not confirm the lease")

    def _lease(self, replica: int) -> list[Held]:
        stopped, probing = self.do(self.arena.account())
        _, leases = self.do(self.arena.lease(replica, len(TOPICS)))
        assert not (stopped and leases), "a permit while the account is stopped"
        assert not (probing and len(leases) > 1), "more than one probe"
        return [self._given(replica, lease) for lease in leases]

    def _given(self, replica: int, lease: Lease) -> Held:
        body = self.model.committed[self.do(self.arena.text(lease.message_id))]
        held = Held(lease, self.model.permit(body, lease.permit, lease.ticket), replica)
        self.held.append(held)
        return held

    @rule(pick=PICK, answer=ANSWERS)
    def sends(self, pick: int, answer: str) -> None:
        if mine := [h for h in self.held if h.outcome is None and not h.swept]:
            self._send(mine[pick % len(mine)], answer)

    @rule(pick=PICK, answer=st.sampled_from(["ok", "the answer is lost", "too late for its slot", "no connection"]))
    def wakes_after_its_lease(self, pick: int, answer: str) -> None:
        """A zombie: it finds its slot too old, or its bytes were on their way all the time."""
        if mine := [h for h in self.held if h.outcome is None and h.swept]:
            held = mine[pick % len(mine)]
            self.model.displaced.add(held.permit.body.text)
            self._send(held, answer)

    def _send(self, held: Held, answer: str) -> None:
        takes, outcome = TAKES[answer]
        body = held.permit.body
        if isinstance(outcome, TicketRefused):
            if held.lease.ticket is None:
                outcome = Rejected(reason="no", status=400)
            else:
                self.model.spoiled.add(body.topic)
        if takes:
            self.gave += held.lease.ticket is None
            ticket = held.lease.ticket or self.gave
            self.model.accept(body, ticket, in_order=not held.swept)
            outcome = outcome or Accepted(ticket=ticket)
        assert outcome is not None
        held.outcome = outcome

    @rule(pick=PICK, count=st.integers(1, 4), twice=st.booleans(), backwards=st.booleans())
    def writes_results_down(self, pick: int, count: int, twice: bool, backwards: bool) -> None:
        """In one batch, the older ones first or not; `twice`: the answer to the COMMIT is lost."""
        if ready := [h for h in self.held if h.outcome is not None]:
            replica = ready[pick % len(ready)].replica
            self._settle([h for h in ready if h.replica == replica][:: -1 if backwards else 1][:count], 1 + twice)

    @rule(topic=TOPIC, replica=REPLICA, answers=st.tuples(FIRST_ANSWERS, ANSWERS), backwards=st.booleans())
    def overtakes(self, topic: str, replica: int, answers: tuple[str, str], backwards: bool) -> None:
        """A message is sent anew while the answer to its first request is still on its way."""
        self.time_passes(70.0)
        self._sweep()
        self.writes_and_commits(topic, Kind.RESEND)
        self._match(0, at_once=False)
        first = next((h for h in self._lease(replica) if h.permit.body.kind is not Kind.HOLD), None)
        if first is None:
            return
        self._send(first, answers[0])
        self.time_passes(70.0)
        self._sweep()
        self.time_passes(11.0)
        second = next((h for h in self._lease((replica + 1) % REPLICAS) if h.permit.body is first.permit.body), None)
        if second is not None:
            self._send(second, answers[1])
        for held in (second, first) if backwards else (first, second):
            if held is not None:
                self._settle([held])

    def _settle(self, batch: list[Held], times: int = 1) -> None:
        results = [Result(lease=h.lease, outcome=h.outcome, ms=1) for h in batch if h.outcome is not None]
        for _ in range(times):
            self.do(self.arena.settle(batch[0].replica, results))
        for held in batch:
            self.held.remove(held)
            held.permit.open = False
            if held.swept:
                # Others went on meanwhile; found to be unsent, it comes after them.
                self.model.displaced.add(held.permit.body.text)
            if isinstance(held.outcome, Stale):
                self.model.outdated.add(held.permit.body.text)
            if isinstance(held.outcome, Accepted):
                self.model.fact(held.permit.body, held.outcome.ticket)

    @rule(replica=REPLICA)
    def is_killed(self, replica: int) -> None:
        """What it held and what it knew is forgotten."""
        self.held = [h for h in self.held if h.replica != replica]

    @rule()
    def upkeep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        for ended in self.do(self.arena.sweep()):
            body = self.model.committed[self.do(self.arena.text(ended.message_id))]
            for permit in self.model.permits:
                if (permit.body, permit.n) == (body, ended.permit):
                    permit.open = False
            for held in self.held:
                held.swept |= held.lease.lease == ended.lease and held.lease.message_id == ended.message_id

    @rule(seconds=st.sampled_from([10.0, 10.0, 70.0, 400.0, 400.0, 1000.0, 25_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.arena.pass_time(seconds))

    # -- a person

    @rule(pick=PICK, verb=st.sampled_from([*Verb, "arrived"]))
    def a_person_acts(self, pick: int, verb: Verb | str) -> None:
        """On whatever is not settled for good."""
        shown = [m for m in self.do(self.arena.messages()) if m.state not in ("captured", "accepted", "superseded")]
        if not shown:
            return
        text = shown[pick % len(shown)].text
        if not isinstance(verb, Verb):
            if self.do(self.arena.arrived(text)):
                self.model.by_hand.add(text)
        elif self.do(self.arena.act(verb, text)):
            self.model.displaced.add(text)
            self.model.asked[text] += verb is Verb.RETRY

    @precondition(lambda self: self.paused is None)
    @rule(what=TARGETS, really=RARELY)
    def a_person_pauses(self, what: Target, really: bool) -> None:
        if really:
            self.paused = what
            self.do(self.arena.pause(what))

    @precondition(lambda self: self.paused is not None)
    @rule()
    def a_person_resumes(self) -> None:
        if self.paused is not None:
            self.do(self.arena.resume(self.paused))
            self.paused = None

    resumes_soon = a_person_resumes

    # -- what must be true

    @invariant()
    def nothing_is_broken(self) -> None:
        self._check(over=False)

    def teardown(self) -> None:
        """Everything heals: what is open ends, and whatever can be sent is sent."""
        for session in list(self.open):
            self.commits(session)
        self.a_person_resumes()
        for _ in range(4 * len(self.model.committed) + 8):
            self._round()
            if not self.do(self.arena.busy()):
                break
        self._check(over=True)

    def _round(self) -> None:
        while self.do(self.arena.match(0, at_once=False))[0]:
            pass
        for held in self.held:
            if held.outcome is None:
                self._send(held, "too late for its slot" if held.swept else "ok")
        while self.held:
            self._settle([h for h in self.held if h.replica == self.held[0].replica])
        self._lease(0)
        if not self.held:
            # Only what has to wait is left.
            self.do(self.arena.pass_time(400.0))
            self._sweep()

    def _check(self, *, over: bool) -> None:
        found = self.model.check(self.do(self.arena.messages()), over=over)
        assert not found, "\n".join(found)


@contextmanager
def stage(dsn: str, folder: Path) -> Iterator[None]:
    """An arena for the machine on an empty database that holds the sample ERP."""
    with asyncio.Runner() as runner:
        context = open_arena(dsn, folder)
        Interleavings.runner, Interleavings.arena = runner, runner.run(context.__aenter__())
        try:
            yield
        finally:
            runner.run(context.__aexit__(None, None, None))

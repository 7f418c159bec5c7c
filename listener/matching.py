"""Changes to messages, each batch in one transaction: take, look up, decide, write, let go.

Exactly once: the outbox rows leave in the transaction that adds the messages. That transaction need not wait for the
disk (`synchronous_commit` off): if it is lost in a crash it is lost whole, and the lease that precedes any POST is
durable together with everything before it.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import Protocol

import psycopg
import structlog

from listener import limits, messages
from listener.database import BY_INDEX, LOST, Connection, Link
from listener.doorbell import Doorbell, Promise
from listener.errors import ListenerError, describe
from listener.identity import Guard
from listener.lookups import Lookups
from listener.model import Change, State
from listener.planning import OpenGroup, Plan, apply_limits, goes_at_once, judge, message_rows
from listener.queries import load
from listener.rulebook import Rulebook
from listener.rules.judging import Found, Verdict
from listener.rules.ruleset import RuleSet
from listener.settings import Settings
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("outbox")

# changes in one transaction
BATCH = 500
# messages of a batch that may go at once, with permits of the same transaction; more are better leased beside it
AT_ONCE = 8
# look this often, rung or not
POLL = 1.0
# a look that finds more than this many changes, or some so soon (seconds) after others, shows that the ERP is busy:
# promise instead of being rung
BUSY = 3
SOON = 0.01
# seconds that a promise lasts, between glances while it lasts, and without a change until it is let lapse
PROMISE = 0.25
GLANCE = 0.001
LINGER = 0.1
# seconds after a change that came alone in which only a ring makes it look again
LOOK = 0.004
# seconds of judging in one transaction, and at a stretch
JUDGING = 1.0
TURN = 0.02
# a lookup that only passes for broken is tried so often before the change is given up to a person
PATIENCE = 5

Notice = Callable[[Change, Sequence[Verdict]], None]

# What the database says of a value that it will never take: a key too long for an index, a text that is none
_POISON = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded)


class Express(Protocol):
    """Who sends messages at once, on permits that are taken in the transaction which makes the messages."""

    @property
    def guard(self) -> Guard: ...

    def offer(self, account: str, want: int) -> messages.Terms | None: ...

    def take(self, terms: messages.Terms, armed: messages.Armed) -> None: ...

    def withdraw(self, terms: messages.Terms) -> None: ...


class Matcher:
    """Matches the outbox against the rules in force; several may run, one works at a time."""

    def __init__(
        self,
        settings: Settings,
        book: Rulebook,
        doorbell: Doorbell,
        on_messages: Callable[[], None],
        on_change: Notice | None = None,
        express: Express | None = None,
    ) -> None:
        self._settings = settings
        self._book = book
        self._doorbell = doorbell
        self._on_messages = on_messages
        self._on_change = on_change
        self._express = express
        first = express.guard.ask if express is not None else None
        self._link = Link(settings, "match", first, synchronous_commit="off", **BY_INDEX)
        self._lookups = Lookups(settings)
        self._promise = Promise(self._link)
        self._batch = BATCH
        self._taken: Sequence[Change] = ()
        self._failures = 0
        self._said = False
        # when it last looked and the database answered, and when it last failed to
        self.moved_at = self._failed_at = monotonic()

    @property
    def turned_at(self) -> float:
        """When it last came round, in vain or not; monotonic."""
        return max(self.moved_at, self._failed_at)

    async def close(self) -> None:
        await self._link.close()
        await self._lookups.close()

    async def run(self, stopping: asyncio.Event) -> None:
        """Looks whenever there is reason to, until `stopping`."""
        while not stopping.is_set():
            try:
                await self._watch(stopping)
            except (*LOST, ListenerError) as error:
                self._failures += 1
                self._failed_at = monotonic()
                self._batch = max(1, self._batch // 4)
                if not self._said:
                    self._said = True
                    log.warning("match_failed", error=describe(error))
                await wait_for_any(stopping, seconds=min(2.0, 0.25 * 2 ** min(self._failures, 5)))

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Busy: promise and poll. Then: let it lapse, and look until nobody can trust it any more. Then: sleep.

        `horizon` is None while every change since would ring.
        """
        horizon: int | None = await self._promise.lapse()
        lapsed_at = worked_at = looked_at = monotonic()
        vain, sure = 0, True
        while not stopping.is_set():
            sure = sure or self._doorbell.rung.is_set()
            self._doorbell.rung.clear()
            # Asked before the look: what those transactions wrote can be seen by it.
            settled = horizon is None or await self._promise.passed(horizon)
            # A look is a transaction. Where nothing told of a change one statement finds out whether it is worth it.
            found = await self.look() if sure or await self._anything() else 0
            self.moved_at, sure = monotonic(), False
            if found is None:
                # What the other replica took may lack the newest change, so its look does not stand for ours.
                await wait_for_any(stopping, seconds=0.02)
            elif found:
                soon, worked_at, vain = monotonic() - worked_at < SOON, monotonic(), 0
                if found > BUSY or soon or self._promise.given:
                    await self._promise.extend(PROMISE)
                    horizon = None
                    # Few changes are few messages, which are on their way: let them go first.
                    sure = found > BUSY or await self._glance(worked_at + LINGER, stopping)
                else:
                    await wait_for_any(self._doorbell.rung, stopping, seconds=LOOK)
            elif self._promise.given and monotonic() - worked_at < LINGER:
                await self._promise.extend(PROMISE)
                sure = await self._glance(worked_at + LINGER, stopping)
            elif self._promise.given or not await self._promise.sign_of_life():
                horizon, lapsed_at = await self._promise.lapse(), monotonic()
            elif not settled:
                # A change in a transaction that has been open for long can wait a little of that.
                await wait_for_any(
                    self._doorbell.rung, stopping, seconds=min(0.25, max(LOOK, (monotonic() - lapsed_at) / 20))
                )
            else:
                horizon = None
                # Any role may ring: rings that bring nothing are answered ever more slowly, down to ten times a second.
                vain, looked_at = vain + 1 if monotonic() - looked_at < 1 else 0, monotonic()
                await wait_for_any(stopping, seconds=min(0.1, 0.0005 * 2 ** min(vain, 8)))
                await self._sleep(stopping)

    async def _glance(self, until: float, stopping: asyncio.Event) -> bool:
        """Waits for a change, at most until `until`, which is before the promise ends; whether one came."""
        while not stopping.is_set() and monotonic() < until:
            await asyncio.sleep(GLANCE)
            if await self._anything():
                return True
        return False

    async def _anything(self) -> bool:
        async with self._link.use() as conn:
            row = await (await conn.execute(SQL["glance"], {})).fetchone()
        return bool(row and row["anything"])

    async def _sleep(self, stopping: asyncio.Event) -> None:
        """Until it rings, until a glance once a second finds something all the same, or until `stopping`."""
        alive = True
        while alive and not stopping.is_set():
            await self._doorbell.self_test(self._link)
            await wait_for_any(self._doorbell.rung, stopping, seconds=POLL)
            if self._doorbell.rung.is_set():
                return
            anything = await self._anything()
            self.moved_at = monotonic()
            alive = not anything and await self._promise.sign_of_life()

    async def look(self) -> int | None:
        """Matches one batch; returns the number of changes, None when another replica is at it."""
        try:
            try:
                return await self._look(at_once=self._express is not None)
            except (_QueueError, psycopg.IntegrityError):
                return await self._look(at_once=False)
        except _POISON as error:
            # On a new connection: after an error in a pipeline the driver is wrong about what is prepared.
            await self._narrow(error)
            return 1

    async def _look(self, *, at_once: bool) -> int | None:
        rules = self._book.current
        async with self._link.use(30.0) as conn:
            async with conn.pipeline():
                await conn.execute("BEGIN")
                mine = await conn.execute(SQL["lock"])
                taken = await conn.execute(SQL["take"], {"limit": self._batch})
            lock = await mine.fetchone()
            rows = await taken.fetchall()
            assert lock is not None
            newer = lock["version"] if lock["version"] != rules.version else None
            if not lock["mine"] or not rows or newer is not None:
                # Nothing was written; and at a ROLLBACK psycopg forgets all that it has prepared.
                await conn.execute("COMMIT")
                if newer is not None and rows:
                    await self._book.follow(newer)
                    return 1
                return 0 if lock["mine"] else None
            changes = self._taken = [Change.of(row) for row in rows]
            found = await self._find(rules, changes)
            groups = await limits.open_groups(conn, rules, changes)
            planned = await self._plan(rules, changes, found, groups, rows[0]["now"])
            changes = changes[: len(planned.verdicts)]
            apply_limits(rules, planned, await limits.read(conn, rules, planned, suppression=lock["suppression"]))
            terms = self._offer(rules, changes, planned, rows[0]["now"]) if at_once else None
            if terms is not None:
                await self._send_at_once(conn, rules, changes, planned, terms)
            elif not await _write(conn, rules, changes, planned):
                return 1
        self._failures, self._said = 0, False
        self._batch = min(BATCH, self._batch * 2)
        if terms is None:
            self._on_messages()
        if self._on_change is not None:
            for change, said in zip(changes, planned.verdicts, strict=True):
                self._on_change(change, said)
        return len(changes)

    def _offer(self, rules: RuleSet, changes: Sequence[Change], planned: Plan, now: datetime) -> messages.Terms | None:
        """Terms on which what a small batch makes may go at once: the hop through the queue is most of its way."""
        if len(planned.rows) > AT_ONCE or not goes_at_once(rules, planned, now):
            return None
        if any(rules.watch(change.watch) is None for change in changes):
            return None
        assert self._express is not None
        return self._express.offer(planned.rows[0].message.account, len(planned.rows))

    async def _send_at_once(
        self, conn: Connection, rules: RuleSet, changes: Sequence[Change], planned: Plan, terms: messages.Terms
    ) -> None:
        """Writes a plan, commits, and has it sent. Raises, with nothing written, `_QueueError` if it cannot go after
        all, and IntegrityError when somebody came in between."""
        assert self._express is not None
        ids = [change.id for change in changes]
        try:
            async with conn.pipeline():
                made = await messages.insert_armed(conn, rules.version, message_rows(planned.rows), ids, **terms)
                await conn.execute("COMMIT")
            armed = await messages.armed_by(made)
        except BaseException:
            self._express.withdraw(terms)
            raise
        self._express.take(terms, armed)
        if not armed.leases:
            raise _QueueError
        # The requests begin before anything else is done.
        await asyncio.sleep(0)

    async def _plan(
        self,
        rules: RuleSet,
        changes: Sequence[Change],
        found: Sequence[Found],
        groups: dict[tuple[str, str], OpenGroup],
        now: datetime,
    ) -> Plan:
        """Judges changes in their order, as many as can be in a second: with slow rules the rest comes next time, and
        whoever waits for an answer of the gateway or the database is let on in between."""
        planned = Plan()
        began = turn = monotonic()
        for change, facts in zip(changes, found, strict=True):
            if (at := monotonic()) - turn > TURN:
                if at - began > JUDGING:
                    break
                await asyncio.sleep(0)
                turn = monotonic()
            judge(planned, rules, change, facts, groups, now, self._settings.mode)
        return planned

    async def _narrow(self, error: Exception) -> None:
        """One of the changes taken last can never be written down: find out which, and set it aside with a note."""
        if len(self._taken) != 1:
            self._batch = max(1, len(self._taken) // 4)
            return
        (change,) = self._taken
        log.error("change_set_aside", change=change.id, watch=change.watch, error=type(error).__name__)
        note = f"could not be made into messages ({type(error).__name__})"
        # Only where it still is: another replica may have been at it since.
        async with self._link.use() as conn:
            args = {"id": change.id, "note": note, "version": self._book.current.version}
            await conn.execute(SQL["set_aside"], args)

    async def _find(self, rules: RuleSet, changes: Sequence[Change]) -> list[Found]:
        found: list[Found] = [{} for _ in changes]
        by_watch: dict[str, list[int]] = {}
        for place, change in enumerate(changes):
            by_watch.setdefault(change.watch, []).append(place)
        for name, places in by_watch.items():
            watch = rules.watch(name)
            if watch is None or not watch.lookup or not rules.by_watch.get(name):
                continue
            mine = [changes[place] for place in places]
            results = await self._lookups.find(watch, mine, patient=self._failures < PATIENCE)
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return found


async def _write(conn: Connection, rules: RuleSet, changes: Sequence[Change], plan: Plan) -> bool:
    """Writes a plan and commits; or does nothing, when a message that should give way to newer changes was leased
    meanwhile: the batch is to be decided anew."""
    alive = plan.alive
    queued = message_rows(alive)
    filed = message_rows(row for row in plan.rows if row.state not in (State.WAITING, State.HELD))
    touched = plan.touched | {(row["account"], row["thread"]) for row in queued}
    notes = {c.id: f"the rules have no watch {c.watch}" for c in changes if rules.watch(c.watch) is None}
    replaced = None
    async with conn.pipeline():
        if touched:
            await messages.lock_threads(conn, touched, queued)
        if plan.replaced:
            replaced = await limits.replace(conn, plan.replaced)
        if queued:
            await messages.insert(conn, rules.version, queued)
            await limits.supersede(conn, alive)
            made = {rule: n for rule, n in plan.made().items() if rules.rules.rules[rule].brake}
            await limits.count(conn, made)
        if plan.braked:
            await limits.pull_brake(conn, plan.braked)
        if filed:
            await messages.file(conn, rules.version, filed)
        if touched:
            await messages.wake_threads(conn, touched)
        ids = [c.id for c in changes]
        args = {"ids": ids, "noted": list(notes), "notes": list(notes.values()), "version": rules.version}
        await conn.execute(SQL["done"], args)
        if replaced is None:
            await conn.execute("COMMIT")
    if replaced is not None:
        as_planned: bool = replaced.rowcount == len(plan.replaced)
        await conn.execute("COMMIT" if as_planned else "ROLLBACK")
        return as_planned
    return True


class _QueueError(ListenerError):
    """What was to go at once has to queue."""

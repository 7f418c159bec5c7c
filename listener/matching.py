"""Changes to messages, each batch in one transaction: take, look up, decide, write, let go.

Exactly once: the outbox rows leave in the transaction that adds the messages. That transaction need not wait for the
disk (`synchronous_commit` off): if it is lost in a crash it is lost whole, and the lease that precedes any POST is
durable together with everything before it.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Protocol

import psycopg
import structlog
from psycopg.rows import DictRow

from listener import limits, messages
from listener.database import BY_INDEX, Connection, Link, together
from listener.errors import ListenerError
from listener.identity import Guard
from listener.lookups import Lookups, PassingLookupError
from listener.model import Change, State
from listener.planning import OpenGroup, Plan, apply_limits, goes_at_once, judge, message_rows
from listener.queries import load
from listener.rulebook import Rulebook
from listener.rules.judging import Found, Verdict
from listener.rules.ruleset import RuleSet
from listener.settings import Settings

log = structlog.get_logger()
SQL = load("outbox")

# changes in one transaction
BATCH = 500
# messages of a batch that may go at once, with permits of the same transaction; more are better leased beside it
AT_ONCE = 8
# seconds of judging in one transaction, and at a stretch
JUDGING = 1.0
TURN = 0.02
# a lookup that only passes for broken is tried so often before the change is given up to a person
PATIENCE = 5

# a change that was captured for rules to come waits for them so long
FOR_NEW_RULES = timedelta(seconds=10)

Notice = Callable[[Change, Sequence[Verdict]], None]

# What the database says of a value that it will never take: a key too long for an index, a text that is none
_POISON = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded)
# and when somebody came in between where nobody was
_BETWEEN = (psycopg.IntegrityError, psycopg.errors.LockNotAvailable)


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
        on_messages: Callable[[], None],
        on_change: Notice | None = None,
        express: Express | None = None,
    ) -> None:
        self._settings = settings
        self._book = book
        self._on_messages = on_messages
        self._on_change = on_change
        self._express = express
        first = express.guard.ask if express is not None else None
        self.link = Link(settings, "match", first, synchronous_commit="off", **BY_INDEX)
        self._lookups = Lookups(settings)
        self._batch = BATCH
        self._taken: Sequence[Change] = ()
        self._failures = 0
        # lookups in a row that only passed for broken
        self._passing = 0

    async def close(self) -> None:
        await self.link.close()
        await self._lookups.close()

    def failed(self) -> int:
        """Takes less at the next look, for the database was lost in one; returns how many have failed in a row."""
        self._failures += 1
        self._batch = max(1, self._batch // 4)
        return self._failures

    async def look(self) -> int | None:
        """Matches one batch; returns the number of changes, None when another replica is at it."""
        try:
            try:
                return await self._look(at_once=self._express is not None)
            except (_QueueError, *_BETWEEN):
                return await self._look(at_once=False)
        except _OutdatedError:
            return 1
        except _POISON as error:
            # On a new connection: after an error in a pipeline the driver is wrong about what is prepared.
            await self._narrow(error)
            return 1

    async def _look(self, *, at_once: bool) -> int | None:
        rules = self._book.current
        changes: Sequence[Change] = ()
        planned, terms = Plan(), None
        async with self.link.use(30.0) as conn:
            try:
                # BEGIN and COMMIT go along with what stands beside them: what goes at once takes two round trips.
                async with together(conn):
                    lock, rows = await self._take(conn)
                    newer = lock["version"] if lock["version"] != rules.version else None
                    if lock["mine"] and rows and newer is None:
                        changes = self._taken = self._for_these(rules, rows)
                    if changes:
                        planned = await self._decide(conn, rules, changes, lock["suppression"], rows[0]["now"])
                        changes = changes[: len(planned.verdicts)]
                        terms = self._offer(rules, changes, planned, rows[0]["now"]) if at_once else None
                        if terms is None:
                            await _write(conn, rules, changes, planned)
                        else:
                            # all of it, or nothing
                            ids = [change.id for change in changes]
                            new = message_rows(planned.rows)
                            made = await messages.insert_armed(conn, rules.version, new, ids, **terms)
                if terms is not None:
                    armed = await messages.armed_by(made)
            except BaseException as error:
                if terms is not None:
                    self._end_offer(terms, error)
                raise
            if terms is not None:
                await self._send(terms, armed)
        if not changes:
            if rows and newer is not None:
                await self._book.follow(newer)
                return 1
            return 0 if lock["mine"] else None
        self._failures = self._passing = 0
        self._batch = min(BATCH, self._batch * 2)
        if terms is None:
            self._on_messages()
        if self._on_change is not None:
            for change, said in zip(changes, planned.verdicts, strict=True):
                self._on_change(change, said)
        return len(changes)

    async def _take(self, conn: Connection) -> tuple[DictRow, list[DictRow]]:
        """The matcher's lock, if it is to be had, and what is next in the outbox."""
        mine = await conn.execute(SQL["lock"])
        taken = await conn.execute(SQL["take"], {"limit": self._batch})
        lock = await mine.fetchone()
        assert lock is not None
        return lock, await taken.fetchall()

    def _for_these(self, rules: RuleSet, rows: Sequence[DictRow]) -> list[Change]:
        """The changes without those that wait for other rules: `db install` makes the triggers fit first. Until the
        others come into force, and if they did since `rules` were read, these may lack the watch of a change, or a
        change a column that they use."""
        changes = [Change.of(row) for row in rows]
        if rules is self._book.current and not self._book.expects_others:
            return changes
        used = {name: rules.used_columns(name) or () for name in {c.watch for c in changes} & rules.rules.watch.keys()}
        late = rows[0]["now"] - FOR_NEW_RULES
        return [c for c in changes if c.at < late or (c.watch in used and c.row.keys() >= set(used[c.watch]))]

    async def _decide(
        self, conn: Connection, rules: RuleSet, changes: Sequence[Change], suppression: bool, now: datetime
    ) -> Plan:
        """What becomes of the changes, or of the first of them."""
        found = await self._find(rules, changes)
        groups = await limits.open_groups(conn, rules, changes)
        planned = await self._plan(rules, changes, found, groups, now)
        apply_limits(rules, planned, await limits.read(conn, rules, planned, suppression=suppression))
        return planned

    def _offer(self, rules: RuleSet, changes: Sequence[Change], planned: Plan, now: datetime) -> messages.Terms | None:
        """Terms on which what a small batch makes may go at once: the hop through the queue is most of its way."""
        if len(planned.rows) > AT_ONCE or not goes_at_once(rules, planned, now):
            return None
        if any(rules.watch(change.watch) is None for change in changes):
            return None
        assert self._express is not None
        return self._express.offer(planned.rows[0].message.account, len(planned.rows))

    def _end_offer(self, terms: messages.Terms, error: BaseException) -> None:
        """Nothing was written, or that is not known."""
        assert self._express is not None
        if isinstance(error, _BETWEEN + _POISON):
            self._express.take(terms, messages.Armed())
        else:
            self._express.withdraw(terms)

    async def _send(self, terms: messages.Terms, armed: messages.Armed) -> None:
        """Has sent what is committed. Raises `_QueueError` if it could not go after all: then nothing was written."""
        assert self._express is not None
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
        async with self.link.use() as conn:
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
            try:
                results = await self._lookups.find(watch, mine, zone=rules.zone, patient=self._passing < PATIENCE)
            except PassingLookupError:
                self._passing += 1
                raise
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return found


async def _write(conn: Connection, rules: RuleSet, changes: Sequence[Change], plan: Plan) -> None:
    """Writes a plan. Raises `_OutdatedError`, with nothing to be committed, when a message that should give way to
    newer changes was leased meanwhile."""
    alive = plan.alive
    queued = message_rows(alive)
    filed = message_rows(row for row in plan.rows if row.state not in (State.WAITING, State.HELD))
    touched = plan.touched | {(row["account"], row["thread"]) for row in queued}
    notes = {c.id: f"the rules have no watch {c.watch}" for c in changes if rules.watch(c.watch) is None}
    if touched:
        await messages.lock_threads(conn, touched, queued)
    if plan.replaced and await limits.replace(conn, plan.replaced) < len(plan.replaced):
        raise _OutdatedError
    if queued:
        await messages.insert(conn, rules.version, queued)
        await limits.supersede(conn, alive)
    made = {rule: n for rule, n in plan.made().items() if n and rules.rules.rules[rule].brake}
    await limits.count(conn, made)
    if plan.braked:
        await limits.pull_brake(conn, plan.braked)
        log.warning("braked", rules=sorted(plan.braked))
    if filed:
        await messages.file(conn, rules.version, filed)
    if touched:
        await messages.wake_threads(conn, touched)
    ids = [c.id for c in changes]
    args = {"ids": ids, "noted": list(notes), "notes": list(notes.values()), "version": rules.version}
    await conn.execute(SQL["done"], args)


class _QueueError(ListenerError):
    """What was to go at once has to queue."""


class _OutdatedError(ListenerError):
    """What was planned no longer fits: the batch is to be decided anew."""

"""Permits and outcomes at scale: `messages.lease` and `settle` with few and with many messages that wait, with one
endless thread, and with few and with many that are finished and kept; then what was kept goes by days.

One database for each case, in one server; every call is made in each of them in turn. `LISTENER_LONG=1` adds ten
millions, on the disk: 25 GB and a quarter of an hour.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from statistics import median, quantiles
from time import perf_counter
from typing import LiteralString
from uuid import uuid4

from listener import accounts, installation, messages
from listener.database import BY_INDEX, Connection, Link, connect
from listener.model import Accepted
from listener.retention import Keeper
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Retention, Settings
from listener.settling import Result, settle
from listener.simulator.postgres import Server
from tests.bench.process import cpu_seconds
from tests.bench.report import Figure, Report
from tests.support.world import NOTES, rules_text

# permits of one call
WANT = 4
# the thread whose turn it always is
LONG_THREAD = 100_000
# days among which the finished are spread, today's among them
DAYS = 5

# Each in a thread of its own, one due every millisecond.
WAITING = """
INSERT INTO listener.thread (account, name, next_at, priority)
SELECT 'main', '{last}:' || n, now() + interval '{last}' - make_interval(secs => ({n} - n) * 0.001), n % 3
  FROM generate_series(1, {n}) n;
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, order_at, due_at, expires_at)
SELECT t.id, 'note', 1, 'note', t.name, 'main', t.id, t.name, t.priority, '0980000000', repeat('x', 100), 1, 'GSM-7',
       'waiting', t.next_at, t.next_at, t.next_at + interval '1 day'
  FROM listener.thread t WHERE t.name LIKE '{last}:%'
"""
# More urgent and older than the others.
ONE_THREAD = """
INSERT INTO listener.thread (account, name, next_at, priority) VALUES ('main', 'long', now() - interval '1 day', 0);
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, order_at, due_at, expires_at)
SELECT 1000000000 + n, 'note', 1, 'note', t.name, 'main', t.id, t.name, t.priority, '0980000000', repeat('x', 100), 1,
       'GSM-7', 'waiting', t.next_at + n * interval '1 ms', t.next_at, now() + interval '1 day'
  FROM listener.thread t, generate_series(1, {n}) n WHERE t.name = 'long'
"""
# One day's partition, filled before it has an index and then put in the place of the empty one.
FINISHED_DAY = """
DO $$
DECLARE
    d date := (now() AT TIME ZONE 'UTC')::date - {day};
    t timestamptz := d::timestamp AT TIME ZONE 'UTC';
    parent text;
    child text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['finished', 'attempt'] LOOP
        child := parent || to_char(d, '_YYYYMMDD');
        EXECUTE format('DROP TABLE IF EXISTS listener.%I', child);
        EXECUTE format('CREATE TABLE listener.%I (LIKE listener.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       child, parent);
        EXECUTE format(CASE parent
            WHEN 'finished' THEN
                'INSERT INTO listener.%I (id, change_id, rule, rules_version, watch, key, account, thread_id, thread,
                                          phone, text, parts, state, ticket_id, created_at, settled_at)
                 SELECT $2 + n, $2 + n, ''note'', 1, ''note'', ''k'' || n, ''main'', n, ''note:k'' || n, ''0980000000'',
                        repeat(''x'', 100), 1, ''accepted'', n, $1, $1 + n * interval ''1 us''
                   FROM generate_series(1, {n}) n'
            ELSE
                'INSERT INTO listener.%I (message_id, n, leased_at, lease, replica, outcome)
                 SELECT $2 + n, 1, $1, n, gen_random_uuid(), ''accepted'' FROM generate_series(1, {n}) n'
            END, child) USING t, 1000000000000 + {day}::bigint * 1000000000;
        EXECUTE format('ALTER TABLE listener.%I ATTACH PARTITION listener.%I FOR VALUES FROM (%L) TO (%L)',
                       parent, child, t, t + interval '1 day');
    END LOOP;
END $$
"""
SECONDARY: LiteralString = """
SELECT schemaname || '.' || indexname AS name, indexdef AS made FROM pg_indexes
 WHERE schemaname = 'listener' AND tablename IN ('message', 'thread')
   AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = (schemaname || '.' || indexname)::regclass)
"""


@dataclass(slots=True, kw_only=True)
class Case:
    """How much there is, and what it cost: milliseconds of each call by round, seconds of the two backends' cores."""

    waiting: int
    later: int = 0
    one_thread: int = 0
    finished: int = 0
    lease: list[list[float]] = field(default_factory=list)
    settle: list[list[float]] = field(default_factory=list)
    cpu: float = 0.0


def cases(*, short: bool, long: bool) -> dict[str, Case]:
    """By name; the first is what the others are held against."""
    few, many, kept = (200, 1000, 500) if short else (10_000, 1_000_000, 1_000_000)
    found = {
        "few": Case(waiting=few),
        f"{many:,} waiting": Case(waiting=many),
        f"{many:,} for later": Case(waiting=few, later=many),
        "one endless thread": Case(waiting=few, one_thread=many if short else LONG_THREAD),
        f"{kept:,} finished": Case(waiting=few, finished=kept),
    }
    if long:
        found |= {
            f"{10 * many:,} waiting": Case(waiting=10 * many),
            f"{10 * kept:,} finished": Case(waiting=few, finished=10 * kept),
        }
    return found


def run(*, short: bool) -> Report:
    return asyncio.run(_run(short=short, long=not short and bool(os.environ.get("LISTENER_LONG"))))


async def _run(*, short: bool, long: bool) -> Report:
    rounds, calls = (1, 5) if short else (5, 400)
    found = cases(short=short, long=long)
    server = Server(durable=long, settings={"fsync": "off", "max_wal_size": "4GB", "shared_buffers": "1GB"})
    await asyncio.to_thread(server.start)
    try:
        await _template(await asyncio.to_thread(server.create_database, "template"))
        async with AsyncExitStack() as stack:
            open_cases = [
                (case, await stack.enter_async_context(_Open(server, f"case{n}", case, rounds * calls * WANT)))
                for n, case in enumerate(found.values())
            ]
            for _ in range(rounds):
                for case, _ in open_cases:
                    case.lease.append([])
                    case.settle.append([])
                for number in range(calls):
                    # forwards and backwards, so that whoever warms a cache for the next does so for everybody
                    for case, opened in open_cases if number % 2 else reversed(open_cases):
                        await opened.call(case)
            for case, opened in open_cases:
                case.cpu = await opened.cpu()
            kept = max(open_cases, key=lambda pair: pair[0].finished)
            gone = await kept[1].drop_old_days()
    finally:
        await asyncio.to_thread(server.close)
    return Report(
        bench="queue",
        figures=[*_figures(found), *gone],
        rounds={f"{what}, {name}": [_p99(values) for values in getattr(case, what)]
                for name, case in found.items() for what in ("lease", "settle")},
    )  # fmt: skip


def _figures(found: dict[str, Case]) -> list[Figure]:
    (name, base), *others = found.items()
    figures = [
        Figure(name=f"lease, {name}: {base.waiting} waiting, p99", value=median(map(_p99, base.lease)), unit="ms"),
        Figure(name=f"settle, {name}: {base.waiting} waiting, p99", value=median(map(_p99, base.settle)), unit="ms"),
    ]
    for name, case in others:
        most = 1.1 if case.finished else 1.3
        for what in ("lease", "settle"):
            pairs = list(zip(getattr(case, what), getattr(base, what), strict=True))
            p99 = median(_p99(ours) / _p99(few) for ours, few in pairs)
            p50 = median(median(ours) / median(few) for ours, few in pairs)
            readme = f"{what}, {name}: p99 against {base.waiting:,} waiting"
            figures.append(Figure(name=f"{what}, {name} : few, p99", value=p99, unit="x", most=most, readme=readme))
            figures.append(Figure(name=f"{what}, {name} : few, p50", value=p50, unit="x", most=most))
        figures.append(Figure(name=f"the server's CPU, {name} : few", value=case.cpu / base.cpu, unit="x", most=most))
    return figures


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


class _Open:
    """A case's database, with the two connections that a replica has for this."""

    def __init__(self, server: Server, database: str, case: Case, taken: int) -> None:
        self._server, self._database, self._case, self._taken = server, database, case, taken
        self._used = 0.0

    async def __aenter__(self) -> "_Open":
        dsn = await asyncio.to_thread(self._server.create_database, self._database, "template")
        settings = Settings(database_url=dsn)
        self._admin = await connect(settings, "bench", statement_timeout="0")
        await fill(self._admin, self._case.waiting + self._taken)
        if self._case.later:
            await fill(self._admin, self._case.later, "2 days")
        if self._case.one_thread:
            await _statements(self._admin, ONE_THREAD.replace("{n}", str(self._case.one_thread)))
        if self._case.finished:
            for day in range(DAYS):
                made = FINISHED_DAY.replace("{day}", str(day)).replace("{n}", str(self._case.finished // DAYS))
                await self._admin.execute(made.encode())
        await self._admin.execute("VACUUM ANALYZE")
        await self._admin.execute("CHECKPOINT")
        self._leasing = Link(settings, "lease", **BY_INDEX)
        self._settling = Link(settings, "settle", **BY_INDEX)
        for _ in range(5):
            await self.call(replace(self._case, lease=[[]], settle=[[]]))
        self._used = await self.cpu()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leasing.close()
        await self._settling.close()
        await self._admin.close()

    async def cpu(self) -> float:
        """Seconds of a core that the two connections took since the warm-up."""
        async with self._leasing.use() as leasing, self._settling.use() as settling:
            return sum(cpu_seconds(conn.info.backend_pid) for conn in (leasing, settling)) - self._used

    async def call(self, case: Case) -> None:
        """A batch of permits, and their outcomes."""
        began = perf_counter()
        async with self._leasing.use() as conn:
            look = await messages.lease(
                conn, account="main", token=int(began * 1e9), replica=uuid4(), rate=None, want=WANT, deadline=60
            )
        leased = perf_counter()
        assert len(look.leases) == WANT, look
        results = [Result(lease=lease, outcome=Accepted(ticket=lease.message_id), ms=1) for lease in look.leases]
        async with self._settling.use() as conn:
            await settle(conn, results, lambda: 0.5)
        case.lease[-1].append((leased - began) * 1000)
        case.settle[-1].append((perf_counter() - leased) * 1000)

    async def drop_old_days(self) -> list[Figure]:
        """What retention does with all of it but the two days that it always keeps."""
        keeper = Keeper(Retention(keep=timedelta(days=2)))
        before, had = await self._deleted(), await self._finished()
        longest, began = 0.0, perf_counter()
        while (await self._days()) > 3:
            at = perf_counter()
            await keeper.look(self._admin)
            longest = max(longest, perf_counter() - at)
            assert perf_counter() < began + 60
        gone = had - await self._finished()
        return [
            Figure(name="finished messages that went with their day", value=gone, least=1),
            Figure(name="rows deleted for it", value=await self._deleted() - before, most=max(2000.0, gone / 1000)),
            Figure(name="longest look of the retention", value=longest * 1000, unit="ms"),
        ]

    async def _deleted(self) -> int:
        # Sessions tell what they did a second later, or when they end.
        await self._admin.execute("SELECT pg_stat_force_next_flush()")
        return await _number(
            self._admin, "SELECT tup_deleted AS n FROM pg_stat_database WHERE datname = current_database()"
        )

    async def _finished(self) -> int:
        return await _number(self._admin, "SELECT count(*) AS n FROM listener.finished")

    async def _days(self) -> int:
        """Days up to today that are there."""
        return await _number(
            self._admin,
            """SELECT count(*) AS n FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                WHERE inhparent = 'listener.finished'::regclass
                  AND right(c.relname, 8) <= to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')""",
        )


async def _template(dsn: str) -> None:
    settings = Settings(database_url=dsn)
    async with await connect(settings, "bench") as conn:
        await conn.execute(NOTES)
        rules = compile_rules(parse(rules_text().replace("TOKEN_FILE", "none"), "rules.yaml"))
        await installation.install(conn, rules, settings)
        await accounts.add(conn, ["main"])


async def fill(conn: Connection, waiting: int, last: LiteralString = "0 s") -> None:
    """Messages that wait, each in a thread of its own, the last of them due in `last`.

    What slows that down is put aside meanwhile.
    """
    async with conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = 0")
        await conn.execute("ALTER TABLE listener.message DISABLE TRIGGER USER")
        aside = await (await conn.execute(SECONDARY)).fetchall() if waiting >= LONG_THREAD else []
        for index in aside:
            await conn.execute(f"DROP INDEX {index['name']}".encode())
        await _statements(conn, WAITING.replace("{n}", str(waiting)).replace("{last}", last))
        for index in aside:
            await conn.execute(index["made"].encode())
        await conn.execute("ALTER TABLE listener.message ENABLE TRIGGER USER")


async def _statements(conn: Connection, text: str) -> None:
    for statement in text.split(";\n"):
        await conn.execute(statement.encode())


async def _number(conn: Connection, query: LiteralString) -> int:
    row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return int(row["n"])

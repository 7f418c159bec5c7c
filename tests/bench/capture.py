"""What capture costs the ERP: single-row updates by 1, 16 and 64 clients and one UPDATE of 100,000 rows, with and
without triggers, interleaved in one run.

Statements go over the simple protocol, one durable transaction each, as psycopg2 and most ERPs send them. While capture
is measured somebody keeps the promise that a busy daemon keeps, and somebody hears what the other trigger notifies;
nobody reads the outbox: the cores are the ERP's.
"""

import asyncio
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import median
from time import monotonic

import psycopg

from listener import capture, installation
from listener.database import connect
from listener.queries import load
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Settings
from listener.simulator.binaries import find_binaries
from listener.simulator.postgres import Server
from tests.bench.report import Figure, Report

Connection = psycopg.Connection[tuple[object, ...]]

CLIENTS = (1, 16, 64)
ROWS = 10_000
# rows of the one statement that changes them all, and how many of them a reader beside it reads at a time
MASS, READ = 100_000, 100
# no trigger, ours, ours with a condition that is false, and a trigger that notifies each time: tables of one shape
TABLES = ("plain", "watched", "filtered", "notifying")
TABLE = """
CREATE TABLE public.{name} (id int PRIMARY KEY, balance numeric(18, 2) NOT NULL, customer_id int NOT NULL, note text)
    WITH (fillfactor = 50);
INSERT INTO public.{name} SELECT n, 100000, n, repeat('x', 60) FROM generate_series(1, {rows}) n;
VACUUM ANALYZE public.{name};
"""
# As an ERP's tables are: 25 columns, a primary key and two indexes more.
MASS_TABLE = """
CREATE TABLE public.{name} (id int PRIMARY KEY, balance numeric(18, 2) NOT NULL, customer_id int NOT NULL, {more});
INSERT INTO public.{name} (id, balance, customer_id) SELECT n, 100000, n FROM generate_series(1, {rows}) n;
CREATE INDEX ON public.{name} (customer_id);
CREATE INDEX ON public.{name} (note_0);
VACUUM ANALYZE public.{name};
"""
NOTIFYING = """
CREATE FUNCTION public.notify_each_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO listener.outbox (watch, op, key, old, new)
    VALUES ('notifying', 'update', NEW.id::text, jsonb_build_object('id', OLD.id, 'balance', OLD.balance),
            jsonb_build_object('id', NEW.id, 'balance', NEW.balance));
    PERFORM pg_notify('bench', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify_each_time AFTER UPDATE ON public.notifying FOR EACH ROW
    WHEN (OLD.balance IS DISTINCT FROM NEW.balance) EXECUTE FUNCTION public.notify_each_time();
"""
RULES = """
version: 1
accounts: {main: {domain: acme, token: "${TOKEN}", service_id: 1}}
watch:
  watched: {table: public.watched, columns: [balance]}
  filtered: {table: public.filtered, columns: [balance], where: NEW.customer_id < 0}
  mass: {table: public.mass_watched, columns: [balance]}
rules:
  filtered: {on: filtered, to: "'0980000000'", text: "{{ new.id }} {{ new.balance | vnd }}", expires: 1h}
  mass: {on: mass, to: "'0980000000'", text: "{{ new.id }} {{ new.balance | vnd }}", expires: 1h}
  watched: {on: watched, to: "'0980000000'", text: "{{ new.id }} {{ new.balance | vnd }}", expires: 1h}
"""
WATCHED = "UPDATE public.{table} SET balance = balance - 1 WHERE id = {id};"
UNRELATED = "UPDATE public.{table} SET note = reverse(note) WHERE id = {id};"


@dataclass(frozen=True, slots=True)
class Case:
    """One load: so many clients update single rows of a table."""

    table: str
    statement: str
    clients: int = 16

    def __str__(self) -> str:
        what = "watched column" if self.statement == WATCHED else "other column"
        return f"{self.table}, {what}, {self.clients} clients"


CASES = [
    *(Case(table, WATCHED, clients) for clients in CLIENTS for table in ("plain", "watched", "notifying")),
    Case("plain", UNRELATED),
    Case("watched", UNRELATED),
    Case("filtered", WATCHED),
]


def run(*, short: bool) -> Report:
    """Transactions per second of each case, and the ratios that matter, as medians of the rounds."""
    rounds, seconds, rows = (1, 0.1, 100) if short else (7, 2.0, ROWS)
    tps: dict[str, list[float]] = {str(case): [] for case in CASES}
    settings = {"shared_buffers": "256MB", "max_wal_size": "2GB", "max_connections": "200"}
    with Server(durable=not short, settings=settings) as server:
        dsn = server.create_database("bench")
        asyncio.run(_prepare(dsn, rows, MASS // (100 if short else 1)))
        with (
            _beside(dsn, _promise),
            _beside(dsn, _hear),
            psycopg.connect(dsn, autocommit=True) as db,
        ):
            for number in range(rounds):
                # forwards and backwards, so that a drift of the machine favours nobody
                for case in CASES if number % 2 == 0 else reversed(CASES):
                    tps[str(case)].append(_load(dsn, case, seconds, rows))
                    db.execute("TRUNCATE listener.outbox")
                    db.execute("VACUUM")
            mass = [_mass(dsn, db) for _ in range(1 if short else 5)]
    none = "no trigger"
    figures = [Figure(name=case, value=median(values), unit="tps") for case, values in tps.items()]
    for clients, least in zip(CLIENTS, (0.65, 0.72, 0.70), strict=True):
        ours, plain, theirs = (Case(table, WATCHED, clients) for table in ("watched", "plain", "notifying"))
        readme = f"ERP updates of a watched column, {clients} client{'s' * (clients > 1)}: against no trigger"
        figures.append(_ratio(f"watched column, {clients} clients : {none}", tps, ours, plain, least, readme))
        if clients == 16:
            readme = "the same: against a trigger that NOTIFYs each time"
            figures.append(_ratio("watched column, 16 clients : NOTIFY each time", tps, ours, theirs, 3.0, readme))
    unrelated, plain = Case("watched", UNRELATED), Case("plain", UNRELATED)
    readme = "of another column: against no trigger"
    figures.append(_ratio(f"other column : {none}", tps, unrelated, plain, 0.97, readme))
    filtered, plain = Case("filtered", WATCHED), Case("plain", WATCHED)
    readme = "of a watched column, `where` is false: against no trigger"
    figures.append(_ratio(f"`where` is false : {none}", tps, filtered, plain, 0.97, readme))
    slower, readers = (median(values) for values in zip(*mass, strict=True))
    readme = f"time of one UPDATE of {MASS:,} rows of 25 columns: against no trigger"
    figures.append(Figure(name=f"UPDATE of {MASS:,} rows : {none}", value=slower, unit="x", most=4.0, readme=readme))
    readme = "who reads beside it: against beside no trigger"
    figures.append(Figure(name=f"readers beside it : beside {none}", value=readers, unit="x", least=0.9, readme=readme))
    return Report(bench="capture", rounds=tps, figures=figures)


def _ratio(name: str, tps: dict[str, list[float]], ours: Case, theirs: Case, least: float, readme: str) -> Figure:
    value = median(a / b for a, b in zip(tps[str(ours)], tps[str(theirs)], strict=True))
    return Figure(name=name, value=value, unit="x", least=least, readme=readme)


async def _prepare(dsn: str, rows: int, mass: int) -> None:
    settings = Settings(database_url=dsn)
    more = ", ".join(f"note_{n} text NOT NULL DEFAULT 'note {n}'" for n in range(22))
    tables = [TABLE.format(name=name, rows=rows) for name in TABLES]
    tables += [MASS_TABLE.format(name=f"mass_{name}", rows=mass, more=more) for name in ("plain", "watched")]
    async with await connect(settings, "bench") as conn:
        for statement in ";\n".join(tables).split(";\n"):
            if statement.strip():
                await conn.execute(statement.encode())
        await installation.install(conn, compile_rules(parse(RULES, "rules.yaml")), settings)
        assert await capture.unfinished(conn) == 0
        await conn.execute(NOTIFYING.encode())


def _mass(dsn: str, db: Connection) -> tuple[float, float]:
    """One UPDATE of all rows, with the trigger and without: its time as a ratio, and that of the reads beside it."""
    seconds, reads = {}, {}
    for table in ("mass_plain", "mass_watched"):
        with _beside(dsn, partial(_read, table, done := [])):
            began = monotonic()
            db.execute(f"UPDATE public.{table} SET balance = balance - 1".encode())
            seconds[table] = monotonic() - began
        reads[table] = max(1, len(done)) / seconds[table]
        db.execute("TRUNCATE listener.outbox")
        db.execute(f"VACUUM public.{table}".encode())
    return seconds["mass_watched"] / seconds["mass_plain"], reads["mass_watched"] / reads["mass_plain"]


def _read(table: str, done: list[None], conn: Connection, over: threading.Event) -> None:
    """Reads some rows again and again, noting each time."""
    while not over.is_set():
        first = Random(len(done)).randint(1, MASS)
        query = f"SELECT count(*) FROM public.{table} WHERE id BETWEEN {first} AND {first + READ}"
        conn.execute(query.encode())
        done.append(None)


@contextmanager
def _beside(dsn: str, work: Callable[[Connection, threading.Event], None]) -> Iterator[None]:
    """Runs `work` in a thread with a connection of its own."""
    over = threading.Event()
    with psycopg.connect(dsn, autocommit=True) as conn:
        thread = threading.Thread(target=work, args=(conn, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _promise(conn: Connection, over: threading.Event) -> None:
    """Promises to look, as a busy matcher does."""
    while not over.wait(0.1):
        conn.execute(load("doorbell")["promise"], {"ms": 1000})


def _hear(conn: Connection, over: threading.Event) -> None:
    """Hears every notification, as what they are made for would."""
    conn.execute("LISTEN bench")
    while not over.is_set():
        for _ in conn.notifies(timeout=0.1):
            pass


def _load(dsn: str, case: Case, seconds: float, rows: int) -> float:
    pgbench = find_binaries() / "pgbench"
    if not pgbench.exists():
        return _load_with_psycopg(dsn, case, seconds, rows)
    # pgbench counts in whole seconds
    length = ["-T", f"{seconds:.0f}"] if seconds >= 1 else ["-t", "10"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"\\set id random(1, {rows})\n" + case.statement.format(table=case.table, id=":id") + "\n")
        script.flush()
        done = subprocess.run(
            [str(pgbench), "-n", "-c", str(case.clients), "-j", "2", *length, "-f", script.name, dsn],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return float(found[1])


def _load_with_psycopg(dsn: str, case: Case, seconds: float, rows: int) -> float:
    """The same from Python's threads, where there is no pgbench: slower, so that differences look smaller."""
    until = monotonic() + seconds
    counts = [0] * case.clients

    def client(number: int) -> None:
        random = Random(number)
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
            while monotonic() < until:
                conn.execute(case.statement.format(table=case.table, id=random.randint(1, rows)).encode())
                counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(case.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds

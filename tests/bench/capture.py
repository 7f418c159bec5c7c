"""What capture costs the ERP: single-row updates by 16 clients, with and without triggers, interleaved in one run.

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

CLIENTS = 16
ROWS = 10_000
# no trigger, ours, and a trigger that notifies each time: three tables of one shape
TABLES = ("plain", "watched", "notifying")
TABLE = """
CREATE TABLE public.{name} (id int PRIMARY KEY, balance numeric(18, 2) NOT NULL, customer_id int NOT NULL, note text)
    WITH (fillfactor = 50);
INSERT INTO public.{name} SELECT n, 100000, n, repeat('x', 60) FROM generate_series(1, {rows}) n;
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
rules:
  watched: {on: watched, to: "'0980000000'", text: "{{ new.id }} {{ new.balance | vnd }}", expires: 1h}
"""
WATCHED = "UPDATE public.{table} SET balance = balance - 1 WHERE id = {id};"
UNRELATED = "UPDATE public.{table} SET note = reverse(note) WHERE id = {id};"
# name of the case: table and statement
CASES = {
    "no trigger, watched column": ("plain", WATCHED),
    "listener, watched column": ("watched", WATCHED),
    "NOTIFY each time, watched column": ("notifying", WATCHED),
    "no trigger, unrelated column": ("plain", UNRELATED),
    "listener, unrelated column": ("watched", UNRELATED),
}


def run(*, short: bool) -> Report:
    """Transactions per second of each case, and the ratios that matter, as medians of the rounds."""
    rounds, seconds, rows = (1, 0.1, 100) if short else (9, 2.0, ROWS)
    tps: dict[str, list[float]] = {case: [] for case in CASES}
    with Server(durable=not short, settings={"shared_buffers": "256MB", "max_wal_size": "2GB"}) as server:
        dsn = server.create_database("bench")
        asyncio.run(_prepare(dsn, rows))
        with (
            _beside(dsn, _promise),
            _beside(dsn, _hear),
            psycopg.connect(dsn, autocommit=True) as db,
        ):
            for number in range(rounds):
                # forwards and backwards, so that a drift of the machine favours nobody
                for case in list(CASES) if number % 2 == 0 else reversed(CASES):
                    table, statement = CASES[case]
                    tps[case].append(_load(dsn, table, statement, seconds, rows))
                    db.execute("TRUNCATE listener.outbox")
                    db.execute("VACUUM")
    return Report(
        bench="capture",
        rounds=tps,
        figures=[
            *(Figure(name=case, value=median(values), unit="tps") for case, values in tps.items()),
            _ratio(tps, "listener, unrelated column", "no trigger, unrelated column", 0.97),
            _ratio(tps, "listener, watched column", "no trigger, watched column", 0.6),
            _ratio(tps, "listener, watched column", "NOTIFY each time, watched column", 2.5),
        ],
    )


def _ratio(tps: dict[str, list[float]], ours: str, theirs: str, least: float) -> Figure:
    value = median(a / b for a, b in zip(tps[ours], tps[theirs], strict=True))
    return Figure(name=f"{ours} : {theirs.split(',')[0]}", value=value, unit="x", least=least)


async def _prepare(dsn: str, rows: int) -> None:
    settings = Settings(database_url=dsn)
    async with await connect(settings, "bench") as conn:
        for name in TABLES:
            for statement in TABLE.format(name=name, rows=rows).split(";\n"):
                await conn.execute(statement.encode())
        await installation.install(conn, compile_rules(parse(RULES, "rules.yaml")), settings)
        assert await capture.unfinished(conn) == 0
        await conn.execute(NOTIFYING.encode())


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


def _load(dsn: str, table: str, statement: str, seconds: float, rows: int) -> float:
    pgbench = find_binaries() / "pgbench"
    if not pgbench.exists():
        return _load_with_psycopg(dsn, statement.replace("{table}", table), seconds, rows)
    # pgbench counts in whole seconds
    length = ["-T", f"{seconds:.0f}"] if seconds >= 1 else ["-t", "10"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"\\set id random(1, {rows})\n" + statement.format(table=table, id=":id") + "\n")
        script.flush()
        done = subprocess.run(
            [str(pgbench), "-n", "-c", str(CLIENTS), "-j", "2", *length, "-f", script.name, dsn],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return float(found[1])


def _load_with_psycopg(dsn: str, statement: str, seconds: float, rows: int) -> float:
    """The same from Python's threads, where there is no pgbench: slower, so that differences look smaller."""
    until = monotonic() + seconds
    counts = [0] * CLIENTS

    def client(number: int) -> None:
        random = Random(number)
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
            while monotonic() < until:
                conn.execute(statement.format(id=random.randint(1, rows)).encode())
                counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds

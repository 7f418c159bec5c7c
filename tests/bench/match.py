"""Matching alone: changes from the outbox to messages in the queue, with 1,000 rules over 50 watches, and whether a
tenth of the rules (over a tenth of the watches) would make a change any cheaper. Nothing is sent.
"""

import asyncio
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic

from listener import accounts, installation
from listener.database import Connection, Link, connect
from listener.matching import Matcher
from listener.rulebook import open_rulebook
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Settings
from listener.simulator.postgres import Server
from tests.bench.report import Figure, Report

WATCHES = 50
RULES_A_WATCH = 20
CHANGES = 5_000
HEAD = """
version: 1
accounts: {main: {domain: acme, token_file: TOKEN_FILE, service_id: 1}}
"""
WATCH = "  w{n}: {{table: public.t{n}, columns: [balance]}}\n"
# Each change makes one rule of its watch speak: the one whose limit it falls below.
RULE = """  r{n}_{m}:
    on: w{n}
    change: {{balance: {{crosses_below: {limit}}}}}
    to: "'0980000000'"
    text: "ACME: TK {{{{ new.id }}}} con {{{{ new.balance | vnd }}}} luc {{{{ at | datetime }}}}"
    expires: 6h
"""
FILL = """
INSERT INTO listener.outbox (watch, op, key, old, new)
SELECT 'w' || n %% %(watches)s, 'update', n::text, jsonb_build_object('id', n, 'balance', limits + 50),
       jsonb_build_object('id', n, 'balance', limits - 50)
  FROM generate_series(1, %(changes)s) n, LATERAL (SELECT 1000 * (1 + n %% %(rules)s) AS limits) AS l
"""


def run(*, short: bool) -> Report:
    if short:
        return asyncio.run(_run(many=2, changes=20, rounds=1))
    return asyncio.run(_run(many=WATCHES, changes=CHANGES, rounds=7))


async def _run(many: int, changes: int, rounds: int) -> Report:
    seconds: dict[str, list[float]] = {"1,000 rules": [], "100 rules": []}
    server = Server()
    await asyncio.to_thread(server.start)
    try:
        with tempfile.TemporaryDirectory() as folder:
            scenes = {
                name: await _scene(server, Path(folder) / f"{watches}.yaml", watches)
                for name, watches in (("1,000 rules", many), ("100 rules", max(1, many // 10)))
            }
            for number in range(rounds):
                for name in list(scenes) if number % 2 == 0 else reversed(scenes):
                    seconds[name].append(await _round(*scenes[name], changes))
            for conn, matcher, _ in scenes.values():
                await matcher.close()
                await conn.close()
    finally:
        await asyncio.to_thread(server.close)
    slower = median(a / b for a, b in zip(*seconds.values(), strict=True))
    rate = changes / median(seconds["1,000 rules"])
    return Report(
        bench="match",
        rounds=seconds,
        figures=[
            Figure(
                name=f"{WATCHES * RULES_A_WATCH:,} rules over {WATCHES} watches",
                value=rate,
                unit="/s",
                least=5000,
                readme="changes a second, 1,000 rules over 50 watches",
            ),
            Figure(
                name="time with 1,000 rules : with 100",
                value=slower,
                unit="x",
                most=1.2,
                readme="time with 1,000 rules: against 100",
            ),
        ],
    )


async def _scene(server: Server, rules: Path, watches: int) -> tuple[Connection, Matcher, int]:
    """A database with the watched tables, and a matcher with the rules; only the outbox is used."""
    text = HEAD + "watch:\n" + "".join(WATCH.format(n=n) for n in range(watches)) + "rules:\n"
    text += "".join(RULE.format(n=n, m=m, limit=1000 * (m + 1)) for n in range(watches) for m in range(RULES_A_WATCH))
    text = await asyncio.to_thread(_write, rules, text)
    dsn = await asyncio.to_thread(server.create_database, f"match_{watches}")
    settings = Settings(database_url=dsn, rules=rules)
    conn = await connect(settings, "bench")
    for n in range(watches):
        await conn.execute(f"CREATE TABLE public.t{n} (id int PRIMARY KEY, balance numeric NOT NULL)".encode())
    await installation.install(conn, compile_rules(parse(text, "rules.yaml")), settings)
    link = Link(settings, "upkeep")
    book = await open_rulebook(settings, link)
    await link.close()
    await accounts.add(conn, ["main"])
    return conn, Matcher(settings, book, lambda: None), watches


def _write(rules: Path, text: str) -> str:
    token = rules.with_suffix(".token")
    token.write_text("made-up", encoding="utf-8")
    text = text.replace("TOKEN_FILE", str(token))
    rules.write_text(text, encoding="utf-8")
    return text


async def _round(conn: Connection, matcher: Matcher, watches: int, changes: int) -> float:
    """Seconds to match a backlog of `changes`."""
    await conn.execute("TRUNCATE listener.outbox, listener.message, listener.thread, listener.change")
    await conn.execute(FILL, {"watches": watches, "changes": changes, "rules": RULES_A_WATCH})
    began = monotonic()
    while await matcher.look():
        pass
    took = monotonic() - began
    made = await (await conn.execute("SELECT count(*) AS n FROM listener.message")).fetchone()
    assert made == {"n": changes}
    return took

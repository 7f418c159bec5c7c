"""`replay`: recorded changes through new rules, beside the rules in force."""

import os
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from listener.database import connect
from listener.replay import in_force, replay
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from tests.support.verbs import verb
from tests.support.world import World, open_world

SAMPLE = (Path(__file__).parent.parent.parent / "rules.yaml").read_text(encoding="utf-8")
LONG = bool(os.environ.get("LISTENER_LONG"))

COALESCING = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12}
watch:
  balance: {table: public.accounts, columns: [balance], key: account_no}
rules:
  balance:
    on: balance
    to: "'0980000000'"
    text: "{{ new.account_no }}: {{ new.balance | vnd }}"
    coalesce: {wait: 30s, max_wait: 1m}
"""


def sample() -> str:
    return SAMPLE.replace("token: ${CARESOFT_TOKEN}", "token_file: TOKEN_FILE")


async def business(world: World) -> None:
    """Orders go through their states, and balances move up and down over 100,000."""
    await world.db.execute(
        """UPDATE public.orders SET status = CASE status WHEN 'new' THEN 'confirmed' ELSE 'delivered' END
            WHERE status <> 'cancelled'"""
    )
    await world.db.execute("UPDATE public.orders SET status = 'cancelled' WHERE order_no < 'DH1005'")
    for balance in (99_999, 250_000, 80_000, 70_000):
        await world.db.execute("UPDATE public.accounts SET balance = %s", [balance])


async def record(world: World, changes: int, *, every: timedelta = timedelta(seconds=1)) -> None:
    """Changes of balances as if they had been matched, one `every` so often and the last one now."""
    await world.db.execute(
        """INSERT INTO listener.change (id, watch, op, key, old, new, at, matched_at, rules_version)
           SELECT n, 'balance', 'update', 'A' || (n %% 20 + 1),
                  jsonb_build_object('account_no', 'A' || (n %% 20 + 1), 'customer_id', n %% 12 + 1,
                                     'balance', CASE WHEN n %% 3 = 0 THEN 150000 ELSE 90000 END),
                  jsonb_build_object('account_no', 'A' || (n %% 20 + 1), 'customer_id', n %% 12 + 1,
                                     'balance', CASE WHEN n %% 3 = 0 THEN 50000 + n %% 1000 ELSE 120000 END),
                  t, t, 1
             FROM generate_series(1, %(changes)s) n
             CROSS JOIN LATERAL (SELECT clock_timestamp() - %(every)s * (%(changes)s - n) AS t) AS moment""",
        {"changes": changes, "every": every},
    )


async def run(world: World, *words: str) -> dict[str, Any]:
    shape: dict[str, Any] = (await verb(world.environment(), "replay", "-o", "json", *words)).json
    return shape


async def live(world: World) -> dict[str, tuple[int, int, int]]:
    """What live matching made by rule: SMS, parts, unfit."""
    rows = await world.rows(
        """SELECT rule, count(*) FILTER (WHERE state <> 'rejected') AS sms,
                  coalesce(sum(parts) FILTER (WHERE state <> 'rejected'), 0)::int AS parts,
                  count(*) FILTER (WHERE state = 'rejected') AS unfit
             FROM listener.messages GROUP BY rule"""
    )
    return {row["rule"]: (row["sms"], row["parts"], row["unfit"]) for row in rows}


async def test_the_counts_are_those_of_live_matching(erp_database: str) -> None:
    async with open_world(erp_database, rules=sample()) as world:
        await business(world)
        await world.once()
        before = await world.messages()
        shape = await run(world)
        told = {n: (s["new"]["sms"], s["new"]["parts"], s["new"]["unfit"]) for n, s in shape["rules"].items()}
        assert told == await live(world)
        assert shape["new"] == shape["in_force"]
        assert all(sides["new"] == sides["in_force"] for sides in shape["rules"].values())
        assert shape["changes"] == (await world.one("SELECT count(*) AS n FROM listener.change"))["n"]
        # nobody gets more than the phone says, and no phone is shown whole
        assert shape["receivers"][0]["phone"].count("*") == 3
        # nothing was sent, nothing written
        requests = len(world.gateway.state.requests)
        assert await world.messages() == before
        assert len(world.gateway.state.requests) == requests


async def test_new_rules_beside_those_in_force(erp_database: str, tmp_path: Path) -> None:
    async with open_world(erp_database, rules=sample()) as world:
        await business(world)
        await world.once()
        new = tmp_path / "new.yaml"
        text = sample().replace("crosses_below: 100000", "crosses_below: 75000").replace("order_cancelled:", "gone:")
        new.write_text(text[: text.index("\ntests:")], encoding="utf-8")
        shape = await run(world, "--rules", str(new), "--since", "1h")
        old = await live(world)
        rules = shape["rules"]
        assert shape["rules_file"] == str(new)
        assert set(rules) == {"low_balance", "order_status", "order_cancelled", "gone"}
        # of the 20 accounts of people 16 have a mobile number, 14 of them more than 100,000 to begin with; all fell
        # below 100,000 once more, and below 75,000 once
        assert rules["low_balance"]["in_force"]["sms"] == 14 + 16
        assert rules["low_balance"]["new"]["sms"] == 16
        assert rules["gone"]["new"] == rules["order_cancelled"]["in_force"]
        assert rules["gone"]["in_force"]["sms"] == rules["order_cancelled"]["new"]["sms"] == 0
        assert rules["order_status"]["new"] == rules["order_status"]["in_force"]
        assert shape["in_force"]["sms"] == sum(sms for sms, _, _ in old.values())
        assert shape["new"]["people"] <= shape["in_force"]["people"]
        assert {reason for side in rules.values() for reason in side["in_force"]["reasons"]} >= {
            "this is a landline, which cannot receive SMS"
        }
        said = await verb(world.environment(), "replay", "--rules", str(new))
        assert said.code == 0
        assert "beside the rules in force (version 1)" in said.out
        assert "biggest receivers" in said.out
        assert "unfit by the new order_status" in said.out


async def test_changes_close_together_are_joined_as_live(erp_database: str) -> None:
    async with open_world(erp_database, rules=COALESCING) as world:
        for balance in (1, 2, 3):
            await world.db.execute(
                "UPDATE public.accounts SET balance = %s WHERE account_no IN ('A1', 'A2')", [balance]
            )
        await world.db.execute("UPDATE public.accounts SET balance = 150000 WHERE account_no = 'A1'")
        await world.once()
        states = [row["state"] for row in await world.messages()]
        assert (states.count("waiting"), states.count("superseded")) == (1, 5)
        shape = await run(world)
        assert shape["rules"]["balance"]["new"] == {"sms": 1, "parts": 1, "people": 1, "unfit": 0, "reasons": {}}


async def test_groups_end_with_their_wait(erp_database: str) -> None:
    """Changes every 10 s with a wait of 30 s and at most 1 min; changes every 40 s."""
    async with open_world(erp_database, rules=COALESCING) as world:
        await world.once()
        await record(world, 20 * 60, every=timedelta(seconds=0.5))
        often = (await run(world))["rules"]["balance"]["new"]["sms"]
        await world.db.execute("TRUNCATE listener.change")
        await record(world, 20 * 60, every=timedelta(seconds=2))
        seldom = (await run(world))["rules"]["balance"]["new"]["sms"]
    # 60 changes of each of 20 accounts, in groups of at most a minute
    assert 20 * 8 <= often <= 20 * 11
    assert seldom == 20 * 60


async def test_only_changes_since(erp_database: str) -> None:
    async with open_world(erp_database, rules=sample()) as world:
        await world.once()
        await record(world, 100, every=timedelta(minutes=1))
        assert (await run(world, "--since", "30m"))["changes"] in (29, 30)
        assert (await run(world, "--since", "2h"))["changes"] == 100


async def test_what_the_new_rules_need_and_nobody_captured(erp_database: str, tmp_path: Path) -> None:
    async with open_world(erp_database, rules=sample()) as world:
        await world.once()
        await record(world, 30)
        new = tmp_path / "new.yaml"
        new.write_text(sample().replace("new.account_no }} con", "new.branch }} con"), encoding="utf-8")
        side = (await run(world, "--rules", str(new)))["rules"]["low_balance"]["new"]
    assert side["sms"] == 0
    assert side["reasons"] == {'new has no column "branch"; did you mean "balance"?': side["unfit"]}


async def test_errors(erp_database: str, tmp_path: Path) -> None:
    async with open_world(erp_database, rules=sample()) as world:
        said = await verb(world.environment(), "replay")
        assert (said.code, said.err) == (
            1,
            "there are no rules in force here that this version can read; start `listener run` once\n",
        )
        assert (await verb(world.environment(), "replay", "--since", "soon")).code == 2
        bad = tmp_path / "bad.yaml"
        bad.write_text("version: 2\n", encoding="utf-8")
        said = await verb(world.environment(), "replay", "--rules", str(bad))
        assert (said.code, f"{bad}:1:10:" in said.err) == (1, True)


@pytest.mark.timeout(900)
async def test_many_changes_in_little_memory(erp_database: str) -> None:
    """By default enough to see that memory does not grow with the changes; LISTENER_LONG=1 makes it a million."""
    count = 1_000_000 if LONG else 3_000
    new = sample().replace("crosses_below: 100000", "crosses_below: 60000")
    async with open_world(erp_database, rules=sample()) as world:
        await world.once()
        # within the days that partitions exist for
        await record(world, count, every=timedelta(milliseconds=50))
        seen: list[tuple[int, int]] = []
        session = {"default_transaction_read_only": "on", "idle_in_transaction_session_timeout": "60s"}
        async with await connect(world.settings, "replay", **session) as conn:
            old = await in_force(conn)
            rules = compile_rules(parse(new.replace("TOKEN_FILE", "token"), "new.yaml"))
            begin = datetime.now(UTC) - timedelta(days=7)
            if not LONG:
                tracemalloc.start()
            started = time.monotonic()
            report = await replay(conn, world.settings, rules, old, begin, lambda *step: seen.append(step))
            seconds = time.monotonic() - started
            if not LONG:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 30_000_000
    assert report.changes == count
    assert seen[-1] == (count, count)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert report.shape()["in_force"]["sms"] > 0
    print(f"{count / seconds:,.0f} changes a second")
    if LONG:
        assert count / seconds >= 5_000

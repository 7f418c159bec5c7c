"""The shapes of `messages`, `message` and `status`, what status counts, and that it scans nothing finished."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from listener import overview
from listener.model import State
from listener.simulator.gateway import Answer, Fault
from tests.support.verbs import verb
from tests.support.world import PHONE, World, open_world, rules_text

MESSAGE = [
    "id", "rule", "watch", "key", "thread", "state", "reason", "phone", "text", "parts", "encoding", "ticket_id",
    "attempts", "created_at", "due_at", "settled_at",
]  # fmt: skip
STATUS = ["outbox", "messages", "oldest_waiting_s", "eta_s", "accounts", "capture_failures", "rules"]
NOW = datetime(2026, 11, 22, tzinfo=UTC)


async def show(world: World, *words: object) -> object:
    return (await verb(world.environment(), *words, "-o", "json")).json


async def test_messages_and_message_have_every_key_and_mask_the_phone(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="phone 0980000000 is invalid")))
        await world.note("a", "one")
        await world.note("b", "two", phone="no phone")
        async with world.service():
            await world.settled()
        rows = await show(world, "messages")
        assert isinstance(rows, list)
        assert [list(row) for row in rows] == [MESSAGE, MESSAGE]
        two, one = rows
        assert (one["phone"], one["state"], one["text"], one["parts"]) == ("098***000", "rejected", "one", 1)
        assert PHONE not in str(rows)
        assert (two["phone"], two["ticket_id"], two["attempts"]) == (None, None, 0)
        assert (await show(world, "messages", "--state", "rejected", "--phone", PHONE, "--reveal"))[0]["phone"] == PHONE  # type: ignore[index]
        assert await show(world, "messages", "--rule", "none") == []
        message = await show(world, "message", one["id"])
        assert isinstance(message, dict)
        assert set(MESSAGE) <= set(message)
        (attempt,) = message["attempt_list"]
        assert (attempt["n"], attempt["outcome"], attempt["http_status"]) == (1, "rejected", 400)
        assert PHONE not in str(message)
        assert (await verb(world.environment(), "message", 999)).code == 1
        for number in (one["id"], two["id"]):
            assert (await verb(world.environment(), "message", number)).code == 0
        assert (await verb(world.environment(), "messages")).code == 0


async def test_a_key_that_is_a_phone_is_masked_with_the_thread_and_reason_that_name_it(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note(PHONE, "one", phone="no phone")
        async with world.service():
            await world.settled()
        await world.db.execute("UPDATE listener.finished SET reason = 'of 0980 000 000'")
        for words in (["messages"], ["message", 1]):
            shown = await show(world, *words)
            row = shown[0] if isinstance(shown, list) else shown
            assert isinstance(row, dict)
            assert (row["key"], row["thread"], row["reason"]) == ("098***000", "098***000", "of 098***000")
            revealed = await show(world, *words, "--reveal")
            row = revealed[0] if isinstance(revealed, list) else revealed
            assert isinstance(row, dict)
            assert row["key"] == PHONE
            # a thread's name where the rule gives none
            assert overview.masked({**row, "thread": f"note:{PHONE}"})["thread"] == "note:098***000"


async def test_status_has_every_key_from_the_first_moment(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        status = await show(world, "status")
        assert isinstance(status, dict)
        assert set(STATUS) <= set(status)
        assert (status["outbox"], status["oldest_waiting_s"], status["eta_s"]) == (0, None, 0)
        assert status["messages"] == dict.fromkeys(State, 0)
        assert status["rules"] == {"version": None, "loaded_at": None, "ok": True, "faults": []}
        assert (await verb(world.environment(), "status")).code == 0


async def test_status_counts_every_message_once_whatever_happens_to_it(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400), content="two"))
        await world.notes([("a", "one"), ("b", "two"), ("c", "three"), ("d", "four")])
        async with world.service():
            await world.settled()
            await show(world, "retry", (await world.one("SELECT id FROM listener.finished WHERE text = 'two'"))["id"])
            await world.settled()
            await show(world, "pause", "--reason", "x", "--until", "2h")
            await world.note("e", "five")
            await world.until("SELECT count(*) = 1 FROM listener.message")
            await world.db.execute("UPDATE listener.replica SET seen_at = now()")
            status = await show(world, "status")
        assert isinstance(status, dict)
        assert {state: n for state, n in status["messages"].items() if n} == {"accepted": 4, "waiting": 1}
        account = status["accounts"]["main"]
        assert set(account) == {"rate", "paused_until", "reason"}
        assert (account["rate"], account["reason"]) == (100, "x")
        assert 7100 < status["eta_s"] < 7210
        assert status["oldest_waiting_s"] >= 0
        assert (status["rules"]["version"], status["rules"]["ok"]) == (1, True)
        exact = await world.rows(
            "SELECT state, count(*) AS n, sum(parts) AS parts FROM listener.finished GROUP BY state"
        )
        kept = await world.rows(
            "SELECT state, sum(n) AS n, sum(parts) AS parts FROM listener.tally GROUP BY state HAVING sum(n) <> 0"
        )
        assert kept == exact
        assert (await verb(world.environment(), "status")).code == 0


async def test_status_names_what_holds_and_what_is_not_captured(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 2/h")) as world:
        await world.notes([(f"t{n}", f"n{n}") for n in range(5)])
        await world.once()
        await world.db.execute("ALTER TABLE public.notes DISABLE TRIGGER ALL")
        await world.db.execute("SELECT nextval('listener.capture_failures')")
        await world.db.execute("UPDATE listener.fleet SET deaf_at = clock_timestamp()")
        await world.db.execute(
            "INSERT INTO listener.replica (id, version, seen_at) VALUES (gen_random_uuid(), '1', now() - interval '1h')"
        )
        said = (await verb(world.environment(), "status")).out
        for words in (
            "BRAKE             rule note since",
            "more than 2/h: 3 held (`listener release --rule note`)",
            "NOT CAPTURED      enable trigger +listener_note_insert on public.notes (`listener db install`)",
            "capture failures  1, 1 of them new",
            "DEAF",
            "LOST              1 replica ended",
        ):
            assert words in said, (words, said)
        found = (await verb(world.environment(), "status", "-o", "json")).json
        assert [(b["rule"], b["held"]) for b in found["brakes"]] == [("note", 3)]
        assert found["capture_gaps"] == ["enable trigger +listener_note_insert on public.notes"]
        assert (found["capture_failures"], found["capture_failures_new"]) == (1, 1)


async def test_status_does_not_send_to_the_install_for_what_it_cannot_mend(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text()) as world:
        await world.once()
        await world.db.execute("ALTER TABLE public.notes RENAME body TO words")
        said = (await verb(world.environment(), "status")).out
        assert "mend rules.yaml or the table: watch note: public.notes has no column body" in said, said


async def test_the_tally_is_folded_without_changing_what_it_says(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for n in range(40):
            await world.db.execute("INSERT INTO listener.tally VALUES (%s, 'r', 'accepted', 2, 3)", [NOW])
            await world.db.execute(
                "INSERT INTO listener.tally VALUES (%s, 'r', 'accepted', %s, 0)", [NOW + timedelta(hours=1), n]
            )
        async with world.service():
            await world.until("SELECT count(*) = 2 FROM listener.tally")
        rows = await world.rows("SELECT n, parts FROM listener.tally ORDER BY hour")
        assert [(r["n"], r["parts"]) for r in rows] == [(80, 120), (780, 0)]


async def test_nothing_that_status_or_a_pause_asks_reads_what_is_finished(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for name in ("counts", "oldest_waiting", "backlog", "outbox", "fleet", "in_force"):
            plan = await world.rows(b"EXPLAIN " + overview.SQL[name])  # type: ignore[arg-type]
            assert not any("finished" in str(row["QUERY PLAN"]) for row in plan), name


@pytest.mark.parametrize(
    ("backlog", "stopped", "seconds"),
    [
        ([], None, 0.0),
        ([(0, 100)], None, 10.0),
        ([(0, 100), (3600, 10)], None, 3601.0),
        ([(0, 100), (5, 100)], None, 20.0),
        ([(0, 100), (60, 1)], 120, 130.1),
        ([(0, 1)], 10**9, None),
        ([(0, 1)], -5, 0.1),
    ],
)
def test_when_the_backlog_will_be_through(
    backlog: list[tuple[float, int]], stopped: int | None, seconds: float | None
) -> None:
    rows = [{"account": "main", "due_s": due, "n": n} for due, n in backlog]
    until = (
        None
        if stopped is None
        else datetime(9999, 12, 31, tzinfo=UTC)
        if stopped == 10**9
        else NOW + timedelta(seconds=stopped)
    )
    assert overview.eta(rows, {"main": 10.0}, {"main": until}, NOW) == seconds


async def test_what_waits_for_an_account_that_the_rules_have_lost_is_said_to_wait_in_vain(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await show(world, "pause", "--reason", "x")
        await world.note("a", "one")
        await world.once()
        await show(world, "resume")
        world.use_rules(rules_text().replace("  main:", "  second:").replace("account: main", "account: second"))
        async with world.service(admin_token="canary") as service, aiohttp.ClientSession() as somebody:
            await world.until("SELECT rules_version = 2 FROM listener.fleet")
            async with somebody.get(f"{service.address}/metrics") as answer:
                metrics = await answer.text()
            told = (await verb(world.environment(), "status")).out
            why = (await verb(world.environment(), "why", "a", "--lang", "en")).out
        assert 'listener_account_stopped{account="main",kind="config"} 1.0' in metrics
        assert f"not in the rules, yet messages wait for it: {overview.GONE}" in told
        assert "all sent in       not while a stop has no end" in told
        assert "waits in vain: the rules have no account main any more" in why
        assert world.arrived() == []


def test_accounts_are_emptied_side_by_side() -> None:
    rows = [{"account": a, "due_s": 0.0, "n": n} for a, n in (("a", 50), ("b", 20))]
    assert overview.eta(rows, {"a": 10.0, "b": 1.0}, {"a": None, "b": None}, NOW) == 20.0


async def test_what_a_newer_version_installed_is_not_called_missing(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        async with world.service():
            pass
        await world.db.execute('DROP TRIGGER "+listener_note_insert" ON public.notes')
        said = (await verb(world.environment(), "status")).out
        assert "NOT CAPTURED" in said and "OUTDATED" not in said
        await world.db.execute("INSERT INTO listener.migration VALUES (9999, '9999_later', '')")
        said = (await verb(world.environment(), "status")).out
        assert "OUTDATED          the database is newer than this program" in said and "NOT CAPTURED" not in said
        assert "changes to match  0" in said, "the rest is told all the same"


def test_a_full_disk_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [sys.executable, "-m", "listener", "test", "rules.yaml"],
            cwd=Path(__file__).parents[2],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert said.returncode == 1
    assert said.stderr == b"there is no room left where this is written to: what was written is not whole\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("cancel --key none <&-", 0),
        (f"forget {PHONE} <&-", 2),
        ("messages >&-", 0),
        ("run --once 2>&-", 0),
        ("run --once <&- >&- 2>&-", 0),
    ],
)
async def test_a_stream_that_is_closed_is_as_one_to_nowhere(erp_database: str, words: str, code: int) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one", phone="no phone")
        process = await asyncio.create_subprocess_shell(
            f'exec "{sys.executable}" -m listener {words}',
            env={**os.environ, **world.environment(), "LISTENER_LOG": ""},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            _, said = await process.communicate()
        assert process.returncode == code, said


async def test_what_the_erp_holds_does_nothing_to_a_terminal(erp_database: str) -> None:
    key = "a\x1b]0;owned\x07\x1b[31m"
    async with open_world(erp_database) as world:
        await world.note(key, "one", phone="no phone")
        await world.once()
        for words in (("messages",), ("message", 1), ("why", key)):
            said = (await verb(world.environment(), *words)).out
            assert r"a\x1b]0;owned\x07" in said
            assert "\x1b" not in said


async def test_a_line_of_a_table_that_is_piped_is_never_broken(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("k" * 300, "one " * 100, phone="no phone")
        await world.once()
        head, row = (await verb(world.environment(), "messages")).out.splitlines()
        assert head.startswith("id ")
        assert "k" * 300 in row

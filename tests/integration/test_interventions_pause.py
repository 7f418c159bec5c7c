"""pause and resume: nothing that is paused is begun any more, what was on its way is settled, what was held goes on."""

import asyncio
import json
import os
from collections.abc import Sequence

import pytest

from listener import pauses
from listener.database import Connection
from listener.simulator.gateway import Answer, Break, Fault, Moment
from tests.integration.test_interventions import say, state, world_with_gate
from tests.integration.test_races import RULE, new_matcher
from tests.support.world import PHONE, World, open_world, rules_text

TURNS = 60 if os.environ.get("LISTENER_LONG") else 3

# beside the rule `note`, one for topics that begin with "other"
RULES = (
    rules_text()
    + """
  other:
    on: note
    when: new.topic.startswith('other')
    to: new.phone
    text: "other {{ new.body }}"
    ticket: {thread: new.topic}
"""
)


async def waits(world: World, n: int) -> None:
    await world.until("SELECT count(*) = %s AND NOT EXISTS (SELECT FROM listener.outbox) FROM listener.message", n)


@pytest.mark.parametrize(
    ("target", "stops"),
    [
        ((), {"a", "b", "other a"}),
        (("--account", "main"), {"a", "b", "other a"}),
        (("--rule", "other"), {"other a"}),
        (("--phone", "+84 91 234 5678"), {"b"}),
    ],
)
async def test_a_pause_stops_what_it_names_and_resume_lets_go_of_it(
    erp_database: str, target: Sequence[str], stops: set[str]
) -> None:
    async with open_world(erp_database, rules=RULES) as world:
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.account")
            assert (await say(world, "pause", *target, "--reason", "wrong text")).code == 0
            await world.note("other 1", "a")
            await world.note("2", "b", phone="0912345678")
            await waits(world, len(stops))
            await world.until("SELECT count(*) = %s FROM listener.finished", 3 - len(stops))
            assert set(world.arrived()) == {"a", "b", "other a"} - stops
            status = (await say(world, "status", "-o", "json")).json
            account = status["accounts"]["main"]
            assert [p["reason"] for p in status["pauses"]] == ["wrong text"]
            if len(stops) == 3:
                assert account["paused_until"].startswith("9999-12-31")
                assert (account["reason"], status["eta_s"]) == ("wrong text", None)
            else:
                assert (account["paused_until"], account["reason"], status["messages"]["held"]) == (None, None, 1)
                held = await world.one("SELECT reason FROM listener.message")
                assert held["reason"].endswith("is paused: wrong text")
            assert (await say(world, "resume", *target)).code == 0
            await world.settled()
            await waits(world, 0)
        assert sorted(world.arrived()) == ["a", "b", "other a"]
        audit = await world.rows("SELECT verb, what, count, reason FROM listener.audit ORDER BY id")
        assert [a["verb"] for a in audit] == ["pause", "resume"]
        assert "912345678" not in json.dumps([a["what"] for a in audit], default=str)


async def test_what_waited_before_a_pause_of_its_rule_is_held_and_goes_on_in_order(erp_database: str) -> None:
    async with open_world(erp_database, rules=RULES) as world:
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.account")
            await say(world, "pause", "--reason", "first all")
            await world.notes([("t", "one"), ("t", "two"), ("t", "three"), ("other", "x")])
            await waits(world, 5)
            said = (await say(world, "pause", "--rule", "note", "--reason", "then one", "-o", "json")).json
            assert said["held"] == 4
            await say(world, "resume")
            await world.settled()
            assert world.arrived() == ["other x"]
            assert (await say(world, "resume", "--rule", "note", "-o", "json")).json["released"] == 4
            await world.settled()
        assert [text for text in world.arrived() if text in ("one", "two", "three")] == ["one", "two", "three"]


async def test_a_message_in_flight_at_a_pause_is_not_tried_again_until_resume(erp_database: str) -> None:
    async with world_with_gate(erp_database) as (world, gate):
        world.gateway.add_fault(Fault(action=Answer(status=429)))
        await world.note("a", "one")
        async with world.service():
            await asyncio.wait_for(gate.reached.wait(), 10)
            assert (await say(world, "pause", "--phone", PHONE, "--reason", "x", "-o", "json")).json["held"] == 0
            gate.open.set()
            await world.until("SELECT state = 'held' FROM listener.message")
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            assert (await say(world, "retry", 1)).code == 1
            assert (await say(world, "release", 1)).code == 1
            assert await state(world, "one") == "held"
            assert len(world.gateway.state.requests) == 1
            await say(world, "resume", "--phone", PHONE)
            await world.settled()
        assert world.arrived() == ["one"]


async def test_an_accepted_answer_after_a_pause_is_kept(erp_database: str) -> None:
    async with world_with_gate(erp_database) as (world, gate):
        await world.note("a", "one")
        async with world.service():
            await asyncio.wait_for(gate.reached.wait(), 10)
            await say(world, "pause", "--rule", "note", "--reason", "x")
            await say(world, "pause", "--reason", "x")
            gate.open.set()
            await world.settled()
        assert await world.states() == {"one": "accepted"}


async def test_a_pause_ends_by_itself_and_says_so(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await say(world, "pause", "--reason", "x", "--until", "1h")
        await say(world, "pause", "--rule", "note", "--reason", "y", "--until", "2h")
        await world.note("a", "one")
        async with world.service():
            await waits(world, 1)
            await world.db.execute("UPDATE listener.pause SET until = now() + interval '0.3 s'")
            await world.db.execute("UPDATE listener.account SET stopped_until = now() + interval '0.3 s'")
            await world.settled()
            await world.until("SELECT state = 'accepted' FROM listener.messages")
        assert world.arrived() == ["one"]
        ended = await world.one("SELECT who, what FROM listener.audit WHERE verb = 'resume'")
        assert ended["who"] == "listener"
        assert sorted(ended["what"]["targets"]) == ["everything", "rule note"]


async def test_a_resume_is_heeded_at_once_though_the_clock_was_set_back(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.once()
        assert (await say(world, "pause", "--reason", "who knows")).code == 0
        # Of both clocks only the difference matters.
        await world.db.execute("UPDATE listener.pause SET since = now() + interval '1 h'")
        assert (await say(world, "resume")).code == 0
        await world.note("a", "one")
        await world.once()
        assert await world.states() == {"one": "accepted"}


async def test_a_message_that_two_pauses_stop_waits_for_both(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await say(world, "pause", "--rule", "note", "--reason", "r")
        await say(world, "pause", "--phone", PHONE, "--reason", "p")
        await world.note("a", "one")
        async with world.service():
            await waits(world, 1)
            for target in (("--rule", "note"), ("--phone", PHONE)):
                assert await state(world, "one") == "held"
                await say(world, "resume", *target)
            await world.settled()
            await world.until("SELECT state = 'accepted' FROM listener.messages")


@pytest.mark.parametrize("by_itself", [False, True])
async def test_what_a_pause_of_many_held_is_let_go_a_part_at_a_time(
    erp_database: str, monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    """In one transaction 300,000 took longer than upkeep may, so that a pause with an end never ended. In between, what
    is new stays behind what is older."""
    monkeypatch.setattr(pauses, "AT_ONCE", 4)
    async with open_world(erp_database) as world, new_matcher(world) as matcher:
        await world.once()
        await pauses.pause(world.db, RULE, reason="x", until=None, by="test")
        await world.notes([(f"t{n % 5}", f"{n}") for n in range(10)])
        await world.once()
        if by_itself:
            await world.db.execute("UPDATE listener.pause SET until = clock_timestamp()")
        parts = 0
        let_on = pauses._let_on

        async def one_part(conn: Connection) -> bool:
            nonlocal parts
            more = await let_on(conn)
            parts += 1
            if parts == 1:
                await world.note("t4", "10")
                assert await matcher.look() == 1
            return more

        monkeypatch.setattr(pauses, "_let_on", one_part)
        if by_itself:
            await pauses.end_pauses(world.db)
        else:
            assert await pauses.resume(world.db, RULE, reason=None, by="test") == 10
        assert await world.one("SELECT count FROM listener.audit WHERE verb = 'resume'") == {"count": 10}
        let_go = "SELECT count(*) AS n, count(DISTINCT xmin::text) AS parts FROM listener.message"
        assert await world.one(f"{let_go} WHERE state = 'waiting'") == {"n": 11, "parts": 3}
        assert await world.one("SELECT count(*) AS n FROM listener.pause") == {"n": 0}
        assert await world.one("SELECT count(next_at) AS n FROM listener.thread") == {"n": 5}


async def test_a_retry_under_a_pause_is_one_decision_that_the_resume_carries_out(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER)))
        await world.note("a", "one")
        async with world.service():
            await world.settled()
            await say(world, "pause", "--rule", "note", "--reason", "r")
            number = (await world.one("SELECT id FROM listener.message WHERE state = 'unknown'"))["id"]
            assert (await say(world, "retry", number, "-o", "json")).json["changed"] == 1
            again = await say(world, "retry", number)
            assert (again.code, "a pause holds it" in again.err) == (1, True)
            assert world.arrived() == ["one"]
            await say(world, "resume", "--rule", "note")
            await world.until("SELECT state = 'accepted' FROM listener.messages")
        assert world.arrived() == ["one", "one"]
        audit = await world.rows("SELECT count FROM listener.audit WHERE verb = 'retry' ORDER BY id")
        assert [row["count"] for row in audit] == [1, 0]


async def test_nothing_of_a_paused_rule_begins_after_pause_has_returned(erp_database: str) -> None:
    """Under load, again and again: the number of requests stands still between pause and resume."""
    async with open_world(erp_database, rules=rules_text(rate="500/s")) as world:
        async with world.service(), world.service():
            await world.until("SELECT count(*) = 1 FROM listener.account")
            for turn in range(TURNS):
                target = [("--rule", "note"), ("--phone", PHONE), ()][turn % 3]
                await world.notes([(f"t{n}", f"{turn}.{n}") for n in range(60)])
                await world.gateway.wait_for(turn * 60 + 5)
                await say(world, "pause", *target, "--reason", "x")
                await world.until("SELECT NOT EXISTS (SELECT FROM listener.message WHERE state = 'sending')")
                permits = len(await world.attempts())
                await world.until("SELECT NOT EXISTS (SELECT FROM listener.outbox)")
                await asyncio.sleep(0.2)
                assert len(await world.attempts()) == permits
                await say(world, "resume", *target)
                await world.gateway.wait_for((turn + 1) * 60)
            await world.settled()
        assert sorted(world.arrived()) == sorted(f"{turn}.{n}" for turn in range(TURNS) for n in range(60))


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("pause",), 2, "--reason"),
        (("pause", "--reason", " "), 2, "--reason"),
        (("pause", "--rule", "note", "--account", "main", "--reason", "x"), 2, "one of"),
        (("pause", "--rule", "notes", "--reason", "x"), 1, "did you mean note?"),
        (("pause", "--account", "mian", "--reason", "x"), 1, "did you mean main?"),
        (("pause", "--phone", "12", "--reason", "x"), 2, "--phone"),
        (("pause", "--reason", "x", "--until", "2020-01-01T00:00"), 2, "over"),
        (("pause", "--reason", "x", "--until", "soon"), 2, "--until"),
        (("pause", "--reason", "x", "--until", ""), 2, "--until"),
        (("resume",), 1, "no pause of everything"),
    ],
)
async def test_what_cannot_be_meant_is_refused(erp_database: str, words: Sequence[str], code: int, why: str) -> None:
    async with open_world(erp_database) as world:
        await world.once()
        said = await say(world, *words)
        assert said.code == code, said.err
        assert why in said.err
        assert await world.rows("SELECT FROM listener.audit") == []


async def test_a_thread_in_which_nothing_waits_is_not_in_the_queue(erp_database: str) -> None:
    """Neither after a pause nor after a match, though an unclear message may still bring the thread's ticket."""
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER)))
        for body in ("unclear", "follows"):
            await world.note("a", body)
            await world.once()
        assert await world.states() == {"unclear": "unknown", "follows": "waiting"}
        assert (await say(world, "pause", "--rule", "note", "--reason", "wrong text")).code == 0
        assert await world.one("SELECT next_at FROM listener.thread") == {"next_at": None}
        await world.note("a", "held as it is made")
        await world.once()
        assert await world.one("SELECT next_at FROM listener.thread") == {"next_at": None}
        # What it waits for holds for those that wait again.
        assert (await say(world, "resume", "--rule", "note")).code == 0
        assert await world.one("SELECT next_at = ticket_wait_until AS waits FROM listener.thread") == {"waits": True}

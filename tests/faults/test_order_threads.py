"""F59, F60: order, tickets and one at a time within a thread, whatever happens; and no thread waits for another."""

import asyncio
import os
import random
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from listener import settling
from listener.simulator.gateway import Answer, Break, Ending, Fault, Moment
from tests.support.world import World, open_world, rules_text

LONG = os.environ.get("LISTENER_LONG") == "1"
THREADS, EACH = (60, 50) if LONG else (25, 6)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeded", [True, False], ids=["seeded", "random"])
async def test_order_and_tickets_hold_while_answers_get_lost(
    erp_database: str, monkeypatch: pytest.MonkeyPatch, seeded: bool
) -> None:
    seed = 1 if seeded else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    monkeypatch.setattr(settling, "UNSURE_LIMIT", 10**6)
    # Followers of an unanswered first message do not wait minutes for its ticket.
    monkeypatch.setattr(settling, "TICKET_WAIT", 0.3)
    async with open_world(erp_database, http_timeout=1.0) as world:
        for n, action in enumerate(
            (
                Break(moment=Moment.BEFORE_ANSWER, ending=Ending.RESET),
                Break(moment=Moment.BEFORE_EFFECT),
                Answer(status=502, after_effect=True),
                Answer(status=400, message="no"),
                Break(moment=Moment.HALF_BODY),
            )
        ):
            world.gateway.add_fault(Fault(action=action, probability=0.06, seed=seed + n, times=None))
        world.gateway.change(latency=0.01)
        notes = [(f"order {t}", f"{t}/{n}") for n in range(EACH) for t in range(THREADS)]
        async with world.service(), world.service(), world.service():
            for first in range(0, len(notes), 30):
                await world.notes(notes[first : first + 30])
            await world.settled(300 if LONG else 30)

        ledger = world.gateway.state.ledger
        assert world.gateway.state.counters().duplicates == []
        by_thread: defaultdict[str, list[int]] = defaultdict(list)
        for entry in ledger:
            thread, number = entry.content.split("/")
            by_thread[thread].append(int(number))
        assert all(numbers == sorted(numbers) for numbers in by_thread.values())

        states = await world.states()
        assert set(states) == {body for _, body in notes}
        has = set(world.arrived())
        assert {body for body, state in states.items() if state == "accepted"} <= has
        assert all(states[body] in ("accepted", "unknown") for body in has)
        assert {state for body, state in states.items() if body not in has} <= {"rejected", "unknown"}

        permits = [a for a in await world.attempts() if a["outcome"] != "not_sent"]
        assert len(permits) == len(notes)
        # Not `ended_at`: what became of an unclear one may be found out later.
        in_thread: defaultdict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        for a in permits:
            until = a["leased_at"] + timedelta(milliseconds=a["ms"])
            in_thread[a["text"].split("/")[0]].append((a["leased_at"], until))
        for spans in in_thread.values():
            assert all(earlier[1] <= later[0] for earlier, later in pairwise(sorted(spans)))

        # From the first answer that was seen on, a thread has one ticket.
        first_ticket: dict[str, int] = {}
        given = {entry.content: entry for entry in ledger}
        for a in permits:
            thread = a["text"].split("/")[0]
            if thread in first_ticket:
                assert a["ticket_sent"] == first_ticket[thread]
            elif a["outcome"] == "accepted":
                first_ticket[thread] = given[a["text"]].ticket_id


async def test_a_thread_that_is_stuck_holds_up_nobody_else(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("stuck", "stuck 0")
        async with world.service():
            await world.settled()
            world.gateway.add_fault(Fault(action=Answer(status=429), content="stuck 1"))
            await world.note("stuck", "stuck 1")
            await world.until("SELECT pause_kind = 'rate' FROM listener.account")
            await world.db.execute("UPDATE listener.message SET due_at = now() + interval '15 min'")
            await world.db.execute(
                "UPDATE listener.thread SET next_at = now() + interval '15 min' WHERE next_at IS NOT NULL"
            )
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.notes([("stuck", "stuck 2"), *((f"order {n}", f"text {n}") for n in range(50))])
            await world.gateway.wait_for(51)
        assert [text for text in world.arrived() if text.startswith("stuck")] == ["stuck 0"]
        assert (await world.states())["stuck 2"] == "waiting"


@pytest.mark.timeout(600)
async def test_a_thread_that_is_stuck_makes_nobody_later(erp_database: str) -> None:
    """F60: the 95th of a hundred waits as long as without it. Measured in turns, since machines have moods."""
    count, turns = (250, 4) if LONG else (30, 2)
    async with open_world(erp_database, rules=rules_text(rate="200/s")) as world, world.service():
        await _p95(world, "warm", 20)
        world.gateway.add_fault(Fault(action=Answer(status=429), content="stuck"))
        await world.note("stuck", "stuck")
        await world.until("SELECT pause_kind = 'rate' FROM listener.account")
        await world.db.execute("UPDATE listener.account SET paused_until = now() + interval '1 h'")
        await world.notes([("stuck", f"behind {n}") for n in range(20)])
        await world.until("SELECT count(*) = 21 FROM listener.message")
        without, beside = [], []
        for turn in range(turns):
            await world.db.execute("UPDATE listener.message SET state = 'held' WHERE thread LIKE '%stuck'")
            await world.db.execute("UPDATE listener.thread SET next_at = NULL WHERE name LIKE '%stuck'")
            await world.db.execute("UPDATE listener.account SET paused_until = now() WHERE streak > 0")
            without.append(await _p95(world, f"without {turn}", count))
            await world.db.execute(
                "UPDATE listener.message SET state = 'waiting', due_at = now() + interval '15 min' WHERE state = 'held'"
            )
            await world.db.execute(
                "UPDATE listener.thread SET next_at = now() + interval '15 min' WHERE name LIKE '%stuck'"
            )
            beside.append(await _p95(world, f"beside {turn}", count))
        print(f"95 of 100 within {min(without) * 1000:.0f} ms without, {min(beside) * 1000:.0f} ms beside")
        assert min(beside) <= min(without) * 1.2 + (0.01 if LONG else 0.5)
        assert [text for text in world.arrived() if text.startswith(("stuck", "behind"))] == []


async def _p95(world: World, name: str, count: int) -> float:
    """Seconds from the write to the gateway that 95 % of messages in threads of their own take, one after another."""
    now, written = world.gateway.state.now, {}
    for n in range(count):
        written[f"{name} {n}"] = now()
        await world.note(f"{name} {n % 500}", f"{name} {n}")
        await asyncio.sleep(0.01)
    await world.gateway.wait_until(lambda state: written.keys() <= {entry.content for entry in state.ledger})
    waits = sorted(e.at - written[e.content] for e in world.gateway.state.ledger if e.content in written)
    return waits[int(len(waits) * 0.95)]


async def test_a_long_pause_keeps_the_order(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429)))
        await world.notes([("order", f"text {n}") for n in range(5)])
        async with world.service():
            await world.until("SELECT pause_kind = 'rate' AND probe IS NULL FROM listener.account")
            await world.db.execute("UPDATE listener.message SET order_at = order_at - interval '2 h'")
            world.gateway.add_fault(Fault(action=Answer(status=429)))
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.until("SELECT streak = 2 AND probe IS NULL FROM listener.account")
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.settled()
        assert world.arrived() == [f"text {n}" for n in range(5)]


async def test_six_at_once_through_three_replicas_make_one_ticket(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.change(latency=0.02)
        async with world.service(), world.service(), world.service():
            for n in range(6):
                await world.notes([(f"order {t}", f"{t}/{n}") for t in range(10)])
            await world.settled()
        assert len(world.gateway.state.tickets) == 10
        assert len(world.arrived()) == 60

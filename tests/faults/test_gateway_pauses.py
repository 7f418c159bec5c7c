"""F42, F50 to F55: what stops an account stops it for everybody, costs no message, and ends by one probe.

Waiting minutes is replaced by moving `paused_until` in the database.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from listener import settling
from listener.delivery import IN_FLIGHT
from listener.simulator.gateway import Answer, Break, Delay, Ending, Fault, GatewaySettings, Moment, Port
from listener.simulator.postgres import Server
from tests.support.raw_server import raw_server, silent
from tests.support.world import World, open_world, rules_text

LONG = os.environ.get("LISTENER_LONG") == "1"
MANY = 1000 if LONG else 20
OVER = "UPDATE listener.account SET paused_until = clock_timestamp()"


async def pause_is(world: World, kind: str) -> None:
    await world.until("SELECT pause_kind = %s AND probe IS NULL FROM listener.account WHERE name = 'main'", kind)


async def fill(world: World, count: int = MANY) -> set[str]:
    """So many messages wait, in threads of their own."""
    before = len(await world.messages())
    texts = [f"text {n}" for n in range(before, before + count)]
    await world.notes([(f"order {text}", text) for text in texts])
    await world.until("SELECT count(*) >= %s FROM listener.messages", before + count)
    return set(texts)


async def all_accepted_once(world: World) -> None:
    rows = await world.messages()
    assert {row["state"] for row in rows} == {"accepted"}
    assert sorted(world.arrived()) == sorted(row["text"] for row in rows)
    assert {row["attempts"] for row in rows} == {1}


async def test_429s_are_probed_one_at_a_time_and_cost_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429), times=4))
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "rate")
            await fill(world)
            for probes in range(2, 5):
                await world.db.execute(OVER)
                await world.until("SELECT streak = %s FROM listener.account", probes)
                # All that waits has waited for that one answer.
                assert len(world.gateway.state.requests) == probes
                pause = await world.one("SELECT paused_until - clock_timestamp() AS left FROM listener.account")
                assert pause["left"].total_seconds() > 4 ** (probes - 1)
            await world.db.execute(OVER)
            await world.settled()
        assert world.gateway.state.counters().longest_429_run == 4
        await all_accepted_once(world)
        assert [a["outcome"] for a in await world.attempts()].count("rate_limited") == 4


async def test_retry_after_is_heeded(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429, headers={"Retry-After": "120"})))
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "rate")
        left = await world.one("SELECT paused_until - clock_timestamp() AS left FROM listener.account")
        assert 110 < left["left"].total_seconds() <= 120


async def test_a_real_limit_is_met_once_and_left_alone(erp_database: str) -> None:
    """The account's other programs use up the quota: we find out by one 429."""
    settings = GatewaySettings(per_second=15, per_hour=10)
    async with open_world(erp_database, gateway=settings, rules=rules_text(rate="50/s")) as world:
        await world.notes([(f"order {n}", f"text {n}") for n in range(15)])
        async with world.service():
            await pause_is(world, "rate")
            world.gateway.change(per_hour=54_000)
            await world.db.execute(OVER)
            await world.settled()
        counters = world.gateway.state.counters()
        assert counters.blocks == 0
        assert counters.longest_429_run <= 3
        await all_accepted_once(world)


async def test_a_lock_out_is_respected_by_everybody_through_every_restart(
    crashable: Server, crashable_database: str
) -> None:
    settings = GatewaySettings(per_second=None, per_hour=None, block_seconds=3600, block_message_minutes=7)
    async with open_world(crashable_database, gateway=settings, http_timeout=2.0) as world:
        world.gateway.block()
        await world.note("order", "first")
        await world.replica()
        await pause_is(world, "lockout")
        assert len(world.gateway.state.requests) == 1
        pause = await world.one("SELECT paused_until - paused_at AS length, pause_reason FROM listener.account")
        assert pause["length"].total_seconds() == pytest.approx(7 * 60 + settling.LOCK_OUT_MARGIN, abs=1)
        assert "7 minutes" in pause["pause_reason"]
        await world.replicas[0].kill()
        crashable.crash()
        crashable.start()
        await world.reconnect()
        await asyncio.gather(world.replica(), world.replica())
        await fill(world, 30)
        await world.until("SELECT count(*) = 3 FROM listener.replica")
        assert len(world.gateway.state.requests) == 1

        # Its end, as our clock sees it: one probe of the whole fleet, which finds it goes on.
        await world.db.execute(OVER)
        await world.until("SELECT streak = 2 AND probe IS NULL FROM listener.account")
        assert len(world.gateway.state.requests) == 2
        assert world.gateway.state.counters().calls_during_block == 2

        world.gateway.block(0)
        await world.db.execute(OVER)
        await world.settled()
        await all_accepted_once(world)
        assert [await replica.stop() for replica in world.replicas[1:]] == [0, 0]


async def test_a_lock_out_of_days_lasts_days(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.change(block_message_minutes=3000)
        world.gateway.block(3600)
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "lockout")
            await fill(world)
            assert len(world.gateway.state.requests) == 1
            left = await world.one("SELECT paused_until - clock_timestamp() AS left FROM listener.account")
            assert left["left"].total_seconds() > 2 * 86400


async def test_an_answer_in_flight_does_not_end_a_pause(erp_database: str) -> None:
    """Of two requests on their way one is refused; the other one's success came from before."""
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Delay(seconds=0.6), content="slow"))
        world.gateway.add_fault(Fault(action=Answer(status=429), content="refused"))
        await world.notes([("order 1", "slow"), ("order 2", "refused")])
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.finished WHERE text = 'slow'")
            row = await world.one("SELECT pause_kind, streak FROM listener.account")
            assert row == {"pause_kind": "rate", "streak": 1}


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_waits_for_another_one(erp_database: str, status: int) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=status)))
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "token")
            await fill(world)
            left = await world.one("SELECT paused_until - clock_timestamp() AS left FROM listener.account")
            assert 50 < left["left"].total_seconds() <= 60
            assert len(world.gateway.state.requests) == 1
            world.gateway.change(token="the-next-one")
            world.token_file.write_text("the-next-one\n")
            await world.settled()
        await all_accepted_once(world)
        assert len(world.gateway.state.requests) == MANY + 2


async def test_a_token_may_change_while_nothing_waits(erp_database: str) -> None:
    """Requests use the token that was read up to a second ago: at worst one is refused, and sent with the new one."""
    async with open_world(erp_database) as world, world.service():
        await world.note("order", "with the old one")
        await world.settled()
        world.gateway.change(token="the-next-one")
        world.token_file.write_text("the-next-one\n")
        await world.note("order", "with the next one")
        await world.settled()
        assert world.arrived() == ["with the old one", "with the next one"]
        before = len(world.gateway.state.requests)
        assert before <= 3
        await world.note("order", "once more")
        await world.settled()
        assert len(world.gateway.state.requests) == before + 1


async def test_the_same_token_again_ends_no_pause(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.change(token="another")
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "token")
        for _ in range(2):
            assert await world.once() == 1
        assert len(world.gateway.state.requests) == 1


async def test_a_wrong_domain_pauses_and_says_why(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.change(domain="other")
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "config")
            await fill(world)
            row = await world.one("SELECT pause_reason FROM listener.account")
            assert row["pause_reason"] == "CareSoft answered 404 (Domain incorrect); check `domain` and the address"
            assert len(world.gateway.state.requests) == 1
            world.gateway.change(domain="acme")
            await world.db.execute(OVER)
            await world.settled()
        await all_accepted_once(world)


async def test_a_gateway_that_is_down_is_tried_once_in_five_seconds_by_the_whole_fleet(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.refuse(Port.PRIMARY)
        await world.note("order", "first")
        async with world.service(), world.service():
            await pause_is(world, "unreachable")
            await fill(world)
            assert len(await world.attempts()) == 1
            pause = await world.one("SELECT paused_until - paused_at AS length FROM listener.account")
            assert 5 <= pause["length"].total_seconds() <= 6
            await world.gateway.reopen(Port.PRIMARY)
            await world.db.execute(OVER)
            await world.settled()
        await all_accepted_once(world)


@asynccontextmanager
async def unreachable(how: str) -> AsyncIterator[str]:
    """The address of a gateway to which no byte of a message can be written."""
    match how:
        case "refused" | "a broken greeting":
            async with raw_server(silent) as server:
                url = server.url
                if how == "a broken greeting":
                    yield url.replace("http:", "https:")
                    return
            yield url
        case "no such name":
            yield "https://no-such-host.invalid"
        case "a certificate of nobody":
            async with raw_server(silent, certificate="localhost") as server:
                yield server.url.replace("127.0.0.1", "localhost")
        case _:
            raise AssertionError(how)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["refused", "no such name", "a broken greeting", "a certificate of nobody"])
async def test_what_surely_was_not_sent_waits_and_is_sent_once_when_it_can_be(erp_database: str, how: str) -> None:
    """F42. (A gateway that does not even refuse, no descriptor left: `tests/integration/test_delivery_client.py`.)"""
    rounds = 100 if LONG else 2
    async with open_world(erp_database, http_timeout=0.5) as world:
        for n in range(rounds):
            await world.note("order", f"text {n}")
            async with unreachable(how) as url:
                # It is tried, and then the whole fleet waits.
                assert [await world.once(caresoft_url=url) for _ in range(2)] == [1, 1]
            pause = await world.one("SELECT pause_kind, paused_until - paused_at AS length FROM listener.account")
            assert pause["pause_kind"] == "unreachable"
            assert pause["length"].total_seconds() >= 5
            await world.db.execute(OVER)
            assert await world.once() == 0
        assert world.arrived() == [f"text {n}" for n in range(rounds)]
        outcomes = [attempt["outcome"] for attempt in await world.attempts() if attempt["outcome"] != "not_sent"]
        assert outcomes == ["unreachable", "accepted"] * rounds
        await all_accepted_once(world)


async def test_a_black_hole_swallows_no_more_than_what_is_in_flight(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=0.6, rules=rules_text(rate="20/s")) as world:
        hole = Fault(action=Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), times=None)
        world.gateway.add_fault(hole)
        async with world.service():
            await fill(world, 60)
            await pause_is(world, "unsure")
            world.gateway.state.faults.clear()
            swallowed = len(world.gateway.state.requests)
            # 0.6 s at 20/s, until the fifth time-out is written down
            assert swallowed <= 20
            await world.db.execute(OVER)
            await world.until("SELECT NOT EXISTS (SELECT FROM listener.message WHERE state IN ('waiting', 'sending'))")
        states = list((await world.states()).values())
        assert states.count("unknown") == swallowed
        assert states.count("accepted") == 60 - swallowed


async def test_one_account_that_is_stopped_does_not_slow_another(erp_database: str) -> None:
    rules = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 100/s}
  spare: {domain: elsewhere, token_file: TOKEN_FILE, service_id: 12, rate: 100/s}
watch:
  note: {table: public.notes, events: [insert], key: topic}
rules:
  good: {on: note, account: main, when: new.topic.startswith('main'), to: new.phone, text: "{{ new.body }}"}
  bad: {on: note, account: spare, when: new.topic.startswith('spare'), to: new.phone, text: "{{ new.body }}"}
"""
    async with open_world(erp_database, rules=rules) as world:
        await world.notes([(f"{name} {n}", f"{name} {n}") for n in range(30) for name in ("spare", "main")])
        async with world.service():
            await world.gateway.wait_for(30)
            await world.until("SELECT pause_kind = 'config' FROM listener.account WHERE name = 'spare'")
        states = await world.states()
        assert all((state == "accepted") == text.startswith("main") for text, state in states.items())


async def test_a_probe_with_nothing_to_send_leaves_the_account_free(erp_database: str) -> None:
    """What expired during a pause must not cost the account one probe's time each."""
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429)))
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "rate")
        await world.db.execute("UPDATE listener.message SET expires_at = now()")
        await world.db.execute(OVER)
        async with world.service():
            await world.note("other", "second")
            await world.settled(5)
        assert await world.states() == {"first": "expired", "second": "accepted"}


async def test_a_clock_that_is_set_back_does_not_lengthen_a_pause(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429)))
        await world.note("order", "first")
        async with world.service():
            await pause_is(world, "rate")
            await world.db.execute(
                """UPDATE listener.account SET paused_at = now() + interval '2 h', next_slot = now() + interval '2 h',
                                               paused_until = now() + interval '2 h 1 s'"""
            )
            await world.settled()
        await all_accepted_once(world)


async def test_slow_answers_do_not_slow_the_pace(erp_database: str) -> None:
    """F54: as many requests are on their way as the rate and the answers' time need."""
    async with open_world(erp_database, rules=rules_text(rate="50/s")) as world:
        world.gateway.change(latency=2.5)
        await world.notes([(f"order {n}", f"text {n}") for n in range(40)])
        async with world.service():
            await world.gateway.wait_until(lambda state: len(state.requests) == 40)
            assert await world.rows("SELECT FROM listener.finished") == []
            await world.settled()
        await all_accepted_once(world)


@pytest.mark.skipif(not LONG, reason="minutes: LISTENER_LONG=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("latency", "rate"), [(10.0, 0.9 * 12), (25.0, 0.9 * IN_FLIGHT / 25)])
async def test_very_slow_answers_are_bounded_by_what_may_be_in_flight(
    erp_database: str, latency: float, rate: float
) -> None:
    """F54: at 10 s the rate holds; at 25 s it is what 128 requests in flight allow. Nothing becomes unclear."""
    async with open_world(erp_database, rules=rules_text(rate="12/s"), http_timeout=30.0) as world:
        world.gateway.change(latency=latency)
        await world.notes([(f"order {n}", f"text {n}") for n in range(600)])
        async with world.service():
            await world.settled(500)
        at = [request.at for request in world.gateway.state.requests]
        assert len(at) / (at[-1] - at[0]) >= rate
        await all_accepted_once(world)


@pytest.mark.skipif(not LONG, reason="ten minutes: LISTENER_LONG=1")
@pytest.mark.timeout(1200)
async def test_a_black_hole_of_ten_minutes_costs_what_was_in_flight_and_the_probes(erp_database: str) -> None:
    """F55: with 1,000 waiting; and half a minute after its end the rate is back."""
    async with open_world(erp_database, rules=rules_text(rate="12/s"), http_timeout=3.0) as world:
        hole = Fault(action=Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), times=None)
        world.gateway.add_fault(hole)
        await world.notes([(f"order {n}", f"text {n}") for n in range(1000)])
        async with world.service(), world.service():
            await asyncio.sleep(600)
            world.gateway.state.faults.clear()
            swallowed, probes = len(world.gateway.state.requests), 600 / settling.UNSURE_BACKOFF.longest
            assert swallowed <= 2 * IN_FLIGHT + probes
            await asyncio.sleep(30)
            before = len(world.arrived())
            await asyncio.sleep(10)
            assert len(world.arrived()) - before >= 0.8 * 12 * 10
            await world.settled(200)
        states = list((await world.states()).values())
        assert states.count("unknown") == swallowed
        assert states.count("accepted") == 1000 - swallowed

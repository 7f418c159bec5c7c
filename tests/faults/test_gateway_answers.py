"""F43 to F49, F53, F56: whatever the gateway answers, one request each, and the message says what is known of it.

(F47's table of answers is in `tests/integration/test_delivery_client.py`.)
"""

import asyncio
import os
import random

import pytest

from listener import settling
from listener.backoff import Backoff
from listener.simulator.gateway import (
    TRUNCATED_JSON,
    Action,
    Answer,
    Break,
    Delay,
    Drip,
    Ending,
    Fault,
    Garbage,
    Huge,
    ManyHeaders,
    Moment,
)
from tests.bench.process import resident_mib
from tests.support.raw_server import answer, raw_server, says
from tests.support.world import World, open_world, rules_text

ROUNDS = 100 if os.environ.get("LISTENER_LONG") == "1" else 1
TIMEOUT = 1.0
# (what happens, the gateway has it)
AMBIGUOUS: dict[str, tuple[Action, bool]] = {
    "reset before the effect": (Break(moment=Moment.BEFORE_EFFECT, ending=Ending.RESET), False),
    "close before the effect": (Break(moment=Moment.BEFORE_EFFECT), False),
    "reset after the effect": (Break(moment=Moment.BEFORE_ANSWER, ending=Ending.RESET), True),
    "close after the effect": (Break(moment=Moment.BEFORE_ANSWER), True),
    "half a status line": (Break(moment=Moment.HALF_STATUS_LINE), True),
    "a status line": (Break(moment=Moment.AFTER_STATUS_LINE, ending=Ending.RESET), True),
    "headers only": (Break(moment=Moment.AFTER_HEADERS), True),
    "half a body": (Break(moment=Moment.HALF_BODY), True),
    "half a body, then silence": (Break(moment=Moment.HALF_BODY, ending=Ending.HANG), True),
    "a black hole": (Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), False),
    "too late": (Delay(seconds=TIMEOUT + 0.5, after_effect=True), True),
    "endless": (Drip(forever=True, interval=0.1), True),
    "binary": (Garbage(), True),
    "huge": (Huge(size=2**31), True),
    "a bomb": (Huge(size=2**26, gzip=True), True),
    "cut json": (Answer(status=200, body=TRUNCATED_JSON, after_effect=True), True),
    "200 and html": (Answer(status=200, body=b"<html>ok", content_type="text/html", after_effect=True), True),
    "200 and nothing": (Answer(status=200, after_effect=True), True),
    **{
        f"{status} {'after' if after else 'before'}": (Answer(status=status, after_effect=after), after)
        for status in (500, 502, 503, 504)
        for after in (False, True)
    },
}
CERTAIN: dict[str, tuple[Action, str]] = {
    "400": (Answer(status=400, message="phone 0980000000 is bad"), "rejected"),
    "422": (Answer(status=422), "rejected"),
    "200 with errors": (Answer(status=200, body=b'{"code":"errors","message":"no"}'), "rejected"),
    "late but in time": (Delay(seconds=TIMEOUT / 4), "accepted"),
    "many headers": (ManyHeaders(count=20, size=1000), "accepted"),
    "in drips": (Drip(chunk=16, interval=0.01), "accepted"),
}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many unclear answers in a row are what this file is about."""
    monkeypatch.setattr(settling, "UNSURE_LIMIT", 10**6)


async def play(world: World, actions: dict[str, Action], rounds: int = 1) -> list[str]:
    """Messages for each action, each in a thread of its own, all settled; returns their texts."""
    for words, action in actions.items():
        world.gateway.add_fault(Fault(action=action, content=f"<{words}>", times=None))
    texts = [f"<{words}>" if n == 0 else f"<{words}> {n}" for n in range(rounds) for words in actions]
    await world.notes([(text, text) for text in texts])
    async with world.service():
        await world.settled(10 + 4 * rounds)
    assert sorted(request.content for request in world.gateway.state.requests) == sorted(texts)
    return texts


@pytest.mark.timeout(600 if ROUNDS > 1 else 120)
async def test_every_unclear_ending_is_unknown_after_one_request(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=TIMEOUT) as world:
        texts = await play(world, {words: action for words, (action, _) in AMBIGUOUS.items()}, ROUNDS)
        rows = await world.messages()
        assert {row["text"]: row["state"] for row in rows} == dict.fromkeys(texts, "unknown")
        assert all(row["reason"].startswith("perhaps sent: ") for row in rows)
        assert {row["attempts"] for row in rows} == {1}
        has = {f"<{words}>" for words, (_, has) in AMBIGUOUS.items() if has}
        assert sorted(world.arrived()) == sorted(text for text in texts if text.partition(">")[0] + ">" in has)
        # Also a slot that was thrown away on a slow machine leaves its row; it made no request.
        assert {a["outcome"] for a in await world.attempts()} - {"not_sent"} == {"unknown"}


async def test_clear_answers_are_what_they_say(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=TIMEOUT) as world:
        await play(world, {words: action for words, (action, _) in CERTAIN.items()})
        rows = {row["text"]: row for row in await world.messages()}
        assert {words: rows[f"<{words}>"]["state"] for words in CERTAIN} == {w: s for w, (_, s) in CERTAIN.items()}
        assert rows["<400>"]["reason"] == "refused by the gateway: phone 098***000 is bad"


async def test_a_refusal_does_not_hold_up_its_thread(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="no"), nth=2, every=2, times=None))
        await world.notes([("order", f"text {n}") for n in range(6)])
        async with world.service():
            await world.settled(5)
        assert [row["state"] for row in await world.messages()] == ["accepted", "rejected"] * 3
        assert len(world.gateway.state.requests) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308] if ROUNDS > 1 else [302, 307])
async def test_a_redirect_is_not_followed_stops_the_account_and_loses_nothing(erp_database: str, status: int) -> None:
    """F48, F49: not even to a page that would say ok."""
    friendly = says(answer("200 OK", b'{"code":"ok","ticket":{"ticket_id":7}}'))
    async with open_world(erp_database) as world, raw_server(friendly) as elsewhere:
        world.gateway.add_fault(Fault(action=Answer(status=status, headers={"Location": elsewhere.url})))
        await world.note("order 0", "text 0")
        async with world.service():
            await world.until("SELECT pause_kind = 'config' FROM listener.account")
            await world.notes([(f"order {n}", f"text {n}") for n in range(1, 5)])
            await world.until("SELECT count(*) = 5 FROM listener.message")
            assert len(world.gateway.state.requests) == 1
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.settled()
        assert sorted(world.arrived()) == [f"text {n}" for n in range(5)]
        assert elsewhere.connections == 0


async def test_answers_without_an_end_or_of_any_size_cost_no_memory_and_free_their_place(erp_database: str) -> None:
    """F45, F46: while many drip, hang, swell or unpack, others are sent; and afterwards it is as small as before."""
    many = 5
    actions: dict[str, Action] = {
        "drips": Drip(forever=True, interval=0.3),
        "silence": Break(moment=Moment.HALF_BODY, ending=Ending.HANG),
        "huge": Huge(size=2**31),
        "bomb": Huge(size=2**30, gzip=True),
        "headers": ManyHeaders(count=1000, size=8000),
    }
    async with open_world(erp_database, http_timeout=2.0, rules=rules_text(rate="200/s")) as world:
        for words, action in actions.items():
            world.gateway.add_fault(Fault(action=action, content=f"<{words}>", times=None))
        replica = await world.replica()
        await world.notes([(f"warm {n}", f"warm {n}") for n in range(60)])
        await world.settled()
        before = resident_mib(replica.pid)
        texts = [f"<{words}> {n}" for n in range(many) for words in actions] + [f"other {n}" for n in range(many)]
        await world.notes([(text, text) for text in texts])
        # Unclear answers in a row stop the account: each time somebody lets it go on.
        letting = asyncio.create_task(_let_go_on(world))
        await world.settled(60)
        letting.cancel()
        await asyncio.gather(letting, return_exceptions=True)
        print(f"{resident_mib(replica.pid, 'VmHWM') - before:.1f} MiB at most")
        assert resident_mib(replica.pid, "VmHWM") - before <= 20
        states = await world.states()
        assert {states[f"other {n}"] for n in range(many)} == {"accepted"}
        assert {states[text] for text in texts[:-many]} <= {"unknown", "accepted"}
        assert len(world.gateway.state.requests) == len(states)


async def _let_go_on(world: World) -> None:
    while True:
        await world.db.execute(
            "UPDATE listener.account SET paused_until = now() WHERE paused_until > now() AND probe IS NULL"
        )
        await asyncio.sleep(0.1)


async def test_a_message_that_prefers_twice_to_never_is_sent_once_more_and_no_more(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "RESEND_BACKOFF", Backoff(first=60, longest=60))
    rules = rules_text(defaults="if_unsure: resend")
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), times=None))
        await world.note("order", "text")
        async with world.service():
            await world.until("SELECT state = 'waiting' AND unsure = 1 FROM listener.message")
            assert len(world.arrived()) == 1
            await world.db.execute("UPDATE listener.message SET due_at = now()")
            await world.db.execute("UPDATE listener.thread SET next_at = now()")
            await world.until("SELECT state = 'unknown' FROM listener.message")
        assert world.arrived() == ["text", "text"]


async def test_what_was_perhaps_sent_is_not_replaced_by_a_newer_change(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: what the gateway may have is never called superseded; the newer change makes a message of its own."""
    monkeypatch.setattr(settling, "RESEND_BACKOFF", Backoff(first=60, longest=60))
    rules = rules_text(defaults="if_unsure: resend") + "    coalesce: {wait: 1s}\n"
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER)))
        await world.note("order", "first")
        async with world.service():
            await world.until("SELECT state = 'waiting' AND unsure = 1 FROM listener.message")
            await world.note("order", "second")
            await world.until("SELECT count(*) = 2 FROM listener.messages")
            await world.db.execute("UPDATE listener.message SET due_at = now()")
            await world.db.execute("UPDATE listener.thread SET next_at = now(), ticket_wait_until = NULL")
            await world.settled()
        assert await world.states() == {"first": "accepted", "second": "accepted"}
        assert world.arrived() == ["first", "first", "second"]


async def test_connections_that_close_at_any_time_are_never_the_reason(erp_database: str) -> None:
    """F56: the gateway promises to keep them open, and closes them just then: each request has one of its own."""
    rng = random.Random(56)

    async def promises_more(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b'{"code":"ok","ticket":{"ticket_id":7}}', "Connection: keep-alive"))
        await writer.drain()
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01, 0.1]))

    count = 1000 if ROUNDS > 1 else 200
    async with open_world(erp_database, rules=rules_text(rate="400/s")) as world, raw_server(promises_more) as server:
        await world.notes([(f"order {n % 100}", f"text {n}") for n in range(count)])
        async with world.service(caresoft_url=server.url):
            await world.settled(30)
        assert set((await world.states()).values()) == {"accepted"}
        sent = [request for request in server.requests if request]
        assert len(sent) == count
        assert server.connections - len(server.requests) + len(sent) == count

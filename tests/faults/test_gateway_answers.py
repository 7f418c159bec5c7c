"""F43 to F49, F53: whatever the gateway answers, one request each, and the message says what is known of it."""

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
from tests.support.world import World, open_world, rules_text

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


async def play(world: World, actions: dict[str, Action]) -> None:
    """One message for each action, each in a thread of its own, all settled."""
    for words, action in actions.items():
        world.gateway.add_fault(Fault(action=action, content=f"<{words}>"))
    await world.notes([(words, f"<{words}>") for words in actions])
    async with world.service():
        await world.settled(10)
    bodies = [request.content for request in world.gateway.state.requests]
    assert sorted(bodies) == sorted(f"<{words}>" for words in actions)


async def test_every_unclear_ending_is_unknown_after_one_request(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=TIMEOUT) as world:
        await play(world, {words: action for words, (action, _) in AMBIGUOUS.items()})
        rows = await world.messages()
        assert {row["text"]: row["state"] for row in rows} == {f"<{words}>": "unknown" for words in AMBIGUOUS}
        assert all(row["reason"].startswith("perhaps sent: ") for row in rows)
        assert {row["attempts"] for row in rows} == {1}
        assert sorted(world.arrived()) == sorted(f"<{words}>" for words, (_, has) in AMBIGUOUS.items() if has)
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


async def test_a_redirect_stops_the_account_and_loses_nothing(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        elsewhere = Answer(status=307, headers={"Location": f"{world.gateway.backup_url}/acme/api/v1/sms"})
        world.gateway.add_fault(Fault(action=elsewhere))
        await world.note("order 0", "text 0")
        async with world.service():
            await world.until("SELECT pause_kind = 'config' FROM listener.account")
            await world.notes([(f"order {n}", f"text {n}") for n in range(1, 5)])
            await world.until("SELECT count(*) = 5 FROM listener.message")
            assert len(world.gateway.state.requests) == 1
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.settled()
        assert sorted(world.arrived()) == [f"text {n}" for n in range(5)]
        assert {request.port for request in world.gateway.state.requests} == {"primary"}


async def test_a_message_that_prefers_twice_to_never_is_sent_once_more_and_no_more(erp_database: str) -> None:
    rules = rules_text(defaults="if_unsure: resend")
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), times=None))
        await world.note("order", "text")
        async with world.service():
            await world.until("SELECT state = 'waiting' AND unsure = 1 FROM listener.message")
            row = await world.one("SELECT due_at - clock_timestamp() > interval '1 s' AS later FROM listener.message")
            assert row["later"]
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

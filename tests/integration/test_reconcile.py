"""Unclear messages are looked for on their ticket: found is accepted, not found proves nothing."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from listener import reconcile
from listener.caresoft import Comment, read_comments
from listener.model import LockedOut, Misconfigured, NotSent, RateLimited, Unauthorized, Unknown
from listener.pacing import Punctuality
from listener.reconcile import ZONES, is_written
from listener.settling import Result, settle
from listener.simulator.gateway import Answer, Break, Endpoint, Fault, Moment, Request
from tests.integration.test_races import leased
from tests.support.world import PHONE, World, open_world, rules_text

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
WINDOW = NOW - ZONES, NOW + ZONES
TEXT = 'ACME: Đơn "DH42" đã giao & xong'


def ticket(world: World) -> int:
    """A ticket that the service desk has already."""
    contact = world.gateway.state.contact_with(PHONE) or world.gateway.state.add_contact(PHONE)
    return world.gateway.state.add_ticket(subject="order", requester_id=contact.id, source="api").ticket_id


def asked(world: World) -> list[str]:
    return [r.path for r in world.gateway.state.requests if r.method == "GET"]


async def test_a_message_whose_answer_was_lost_is_found_on_its_ticket(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="sent"))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT), content="lost"))
        number = ticket(world)
        await world.note("a", "sent", ticket=number)
        await world.note("b", "lost", ticket=number)
        async with world.service():
            await world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = 'sent'")
            await world.until("SELECT looks = 1 FROM listener.message WHERE text = 'lost'")
            await world.settled()
        row = await world.one("SELECT reason, ticket_id FROM listener.messages WHERE text = 'sent'")
        assert (row["reason"], row["ticket_id"]) == ("found on its ticket", number)
        assert await world.states() == {"sent": "accepted", "lost": "unknown"}
        assert [a["outcome"] for a in await world.attempts()] == ["accepted", "unknown"]
        assert len(world.arrived()) == 1
        again = await world.one(
            "SELECT extract(epoch FROM look_at - clock_timestamp())::float8 AS s FROM listener.message"
        )
        assert 0 < again["s"] <= 30


@pytest.mark.parametrize("answered", [True, False])
async def test_what_stands_on_the_ticket_because_of_another_message_is_no_proof(
    erp_database: str, answered: bool
) -> None:
    async with open_world(erp_database) as world:
        if not answered:
            world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="DH1 is paid"))
        number = ticket(world)
        await world.note("a", "DH1 is paid", ticket=number)
        await world.once()
        other = await world.one("SELECT state FROM listener.messages")
        assert other["state"] == ("accepted" if answered else "unknown")
        # it was looked for too early to be seen, so often that it is left to a person
        await world.db.execute("UPDATE listener.message SET look_at = 'infinity'")
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT)))
        await world.note("b", "DH1", ticket=number)
        async with world.service():
            await world.until(
                "SELECT coalesce((SELECT looks > 0 FROM listener.message WHERE text = 'DH1'), state = 'accepted') "
                "FROM listener.messages WHERE text = 'DH1'"
            )
        assert await world.states() == {"DH1 is paid": other["state"], "DH1": "unknown"}
        assert world.arrived() == ["DH1 is paid"]


async def test_a_look_that_came_too_late_to_be_sent_is_none(erp_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the database is far away, until that is usual."""
    in_time = iter([False, False])

    class Late(Punctuality):
        def in_time(self, age: float) -> bool:
            return next(in_time, super().in_time(age))

    monkeypatch.setattr(reconcile, "Punctuality", Late)
    async with open_world(erp_database) as world:
        number = ticket(world)
        await world.note("a", "one", ticket=number)
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT), endpoint=Endpoint.SMS))
        async with world.service():
            async with asyncio.timeout(10):
                while not asked(world):
                    await asyncio.sleep(0.02)
        assert (await world.one("SELECT looks FROM listener.message"))["looks"] == 1


async def test_it_is_looked_for_a_few_times_and_then_left_to_a_person(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT), endpoint=Endpoint.SMS))
        number = ticket(world)
        await world.note("a", "one", ticket=number)
        async with world.service():
            for looks in range(1, 6):
                await world.until("SELECT looks = %s FROM listener.message", looks)
                await world.db.execute("UPDATE listener.message SET look_at = now() WHERE look_at < 'infinity'")
            row = await world.one("SELECT state, look_at = 'infinity' AS never FROM listener.message")
            assert (row["state"], row["never"]) == ("unknown", True)
        assert len(asked(world)) == 5
        assert all(path.endswith(f"/tickets/{number}") for path in asked(world))


async def test_what_was_looked_for_in_vain_before_it_was_sent_is_looked_for_anew(erp_database: str) -> None:
    """A replica stood still with its permit, and says now that it did not use it."""
    async with open_world(erp_database) as world:
        lease = await leased(world, "one")
        await settle(world.db, [Result(lease=lease, outcome=Unknown(cause="nobody came back"))], lambda: 0.5)
        await world.db.execute("UPDATE listener.message SET looks = 5, look_at = 'infinity'")
        await settle(world.db, [Result(lease=lease, outcome=NotSent(cause="the slot was too old"))], lambda: 0.5)
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), endpoint=Endpoint.SMS))
        await world.db.execute("UPDATE listener.message SET ticket_own = %s", [ticket(world)])
        async with world.service():
            await world.until("SELECT reason = 'found on its ticket' FROM listener.messages")
        assert world.arrived() == ["one"]


async def test_without_a_ticket_there_is_nothing_to_look_at(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER)))
        await world.note("a", "one")
        await world.note("b", "two", ticket=ticket(world))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="two"))
        async with world.service():
            await world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = 'two'")
        assert await world.states() == {"one": "unknown", "two": "accepted"}
        assert len(asked(world)) == 1


async def test_looking_keeps_the_pace_and_a_refusal_stops_the_account(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(rate="5/s")) as world:
        number = ticket(world)
        world.gateway.add_fault(Fault(action=Answer(status=429), endpoint=Endpoint.TICKET))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost"))
        await world.note("a", "lost", ticket=number)
        async with world.service():
            await world.until("SELECT pause_kind = 'rate' FROM listener.account")
            await world.notes([(f"t{n}", f"n{n}") for n in range(4)])
            await world.db.execute("UPDATE listener.account SET paused_until = now()")
            await world.db.execute("UPDATE listener.message SET look_at = now() WHERE state = 'unknown'")
            await world.settled()
            await world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = 'lost'")
        assert world.gateway.state.counters().max_requests_per_second <= 6
        assert set((await world.states()).values()) == {"accepted"}


async def test_a_token_that_may_send_and_not_read_goes_on_sending(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=403), endpoint=Endpoint.TICKET, times=None))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost"))
        await world.note("a", "lost", ticket=ticket(world))
        async with world.service():
            await world.until("SELECT looks = 1 FROM listener.message")
            # Looked for again, for which the first answer was dealt with.
            await world.db.execute("UPDATE listener.message SET look_at = now()")
            await world.until("SELECT looks = 2 FROM listener.message", seconds=10)
            await world.note("b", "next")
            await world.settled()
        assert await world.states() == {"lost": "unknown", "next": "accepted"}


async def test_a_refusal_that_is_older_than_a_lock_out_does_not_shorten_it(erp_database: str) -> None:
    answering = asyncio.Event()

    async def hold_looks(request: Request) -> None:
        if request.method == "GET":
            await answering.wait()

    async with open_world(erp_database, on_request=hold_looks) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429), endpoint=Endpoint.TICKET))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost"))
        world.gateway.add_fault(Fault(action=Answer(status=404, message="too many times"), content="locked out"))
        await world.note("a", "lost", ticket=ticket(world))
        async with world.service():
            await world.until("SELECT looks = 1 FROM listener.message")
            await world.note("b", "locked out")
            await world.until("SELECT pause_kind = 'lockout' FROM listener.account")
            answering.set()
        row = await world.one(
            "SELECT pause_kind, extract(epoch FROM paused_until - now())::float8 AS s FROM listener.account"
        )
        assert (row["pause_kind"], row["s"] > 900) == ("lockout", True)


def comments(*texts: str, at: datetime | None = NOW) -> list[Comment]:
    return [Comment(text=text, at=at) for text in texts]


@pytest.mark.parametrize(
    "comment",
    [
        TEXT,
        f"<p>{TEXT}</p>",
        "ACME: Đơn &quot;DH42&quot; đã giao &amp; xong",
        "<div>ACME: Đơn &quot;DH42&quot;<br>đã giao &amp; xong</div>",
        f"SMS 0980000000: {TEXT}",
        f"  {TEXT.replace(' ', chr(0xA0))}\n",
        "ACME: Đơn \"DH42\" đã giao & xong".replace("Đơn", "Đơn"),
    ],
)  # fmt: skip
def test_the_text_is_found_however_the_gateway_writes_it_down(comment: str) -> None:
    assert is_written(TEXT, comments(comment), WINDOW, [])


def test_what_proves_nothing() -> None:
    assert not is_written(TEXT, comments("ACME: Don DH42 da giao"), WINDOW, [])
    assert not is_written(TEXT, [], WINDOW, [])
    assert not is_written(" ", comments("anything"), WINDOW, [])
    assert not is_written(TEXT, comments(TEXT, at=None), WINDOW, [])
    assert not is_written(TEXT, comments(TEXT, at=NOW + ZONES + timedelta(seconds=1)), WINDOW, [])
    assert is_written(TEXT, comments(TEXT, at=NOW - timedelta(hours=7)), WINDOW, [])


def test_the_same_text_for_another_message_explains_one_comment_each() -> None:
    assert not is_written(TEXT, comments(TEXT), WINDOW, [TEXT])
    assert not is_written(TEXT, comments(TEXT, TEXT), WINDOW, [TEXT, f"more: {TEXT}"])
    assert is_written(TEXT, comments(TEXT, TEXT), WINDOW, [TEXT, "something else"])


def test_a_ticket_is_read_tolerantly() -> None:
    def body(value: object) -> bytes:
        return json.dumps(value).encode()

    listed = [
        {"comment": "a", "created_at": "2026-11-22T03:00:00Z"},
        {"comment": "b", "created_at": "2026-11-22 10:00:00"},
        {"comment": "c", "created_at": "2026/11/22 10:00:00"},
        {"comment": "d", "created_at": "yesterday"},
        {"comment": "e"},
        {"comment": None},
        "f",
    ]
    found = read_comments(200, None, body({"code": "OK", "ticket": {"comments": listed}}))
    assert isinstance(found, tuple)
    local = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    assert [(c.text, c.at) for c in found] == [("a", NOW), ("b", local), ("c", local), ("d", None), ("e", None)]
    for nothing in ({"code": "ok"}, {"code": "ok", "ticket": []}, {"code": "ok", "ticket": {"comments": "no"}}):
        assert read_comments(200, None, body(nothing)) == ()
    refusals = {
        (404, "Ticket not found"): Misconfigured,
        (404, "Domain incorrect too many times , retry after 15 minutes "): LockedOut,
        (429, "Too Many Attempts."): RateLimited,
        (401, "no"): Unauthorized,
        (500, "no such ticket"): Unknown,
    }
    for (status, message), kind in refusals.items():
        assert isinstance(read_comments(status, None, body({"code": "errors", "message": message})), kind)
    assert isinstance(read_comments(200, None, b"<html>"), Unknown)

"""Few changes at a time: their messages get their permits in the transaction that makes them, or queue as any other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from listener import accounts, messages
from listener.database import Link, connect
from listener.identity import Guard
from listener.matching import AT_ONCE, Matcher
from listener.model import Lease
from listener.rulebook import open_rulebook
from tests.support.world import World, open_world, rules_text

# that of the notes on the topic `order`
THREAD = "order"
Look = Callable[[], Awaitable[int | None]]


@dataclass(slots=True)
class Sender:
    """Offers terms as a delivery does and keeps what came of them."""

    guard: Guard = field(default_factory=Guard)
    rate: float | None = 1.0
    offered: list[messages.Terms] = field(default_factory=list)
    taken: list[tuple[Lease, ...]] = field(default_factory=list)
    withdrawn: int = 0
    queued: int = 0

    def offer(self, account: str, want: int) -> messages.Terms | None:
        token = uuid4().int >> 66
        self.offered.append(
            messages.Terms(account=account, token=token, replica=uuid4(), rate=self.rate, want=want, deadline=60.0)
        )
        return self.offered[-1]

    def take(self, terms: messages.Terms, armed: messages.Armed) -> None:
        assert terms == self.offered[-1]
        assert bool(armed.durable) == bool(armed.leases)
        self.taken.append(armed.leases)

    def withdraw(self, terms: messages.Terms) -> None:
        assert terms == self.offered[-1]
        self.withdrawn += 1

    def queue(self) -> None:
        self.queued += 1


@asynccontextmanager
async def matching(erp_database: str, sender: Sender) -> "AsyncIterator[tuple[World, Look]]":
    """A world without a daemon, and its matcher's one look."""
    async with open_world(erp_database, rules=rules_text()) as world:
        link = Link(world.settings, "upkeep")
        book = await open_rulebook(world.settings, link)
        await link.close()
        await accounts.add(world.db, ["main"])
        matcher = Matcher(world.settings, book, sender.queue, express=sender)
        try:
            yield world, matcher.look
        finally:
            await matcher.close()


async def test_the_permit_is_there_with_the_message(erp_database: str) -> None:
    sender = Sender()
    async with matching(erp_database, sender) as (world, look):
        await world.note("order", "text", ticket=77)
        await look()
        ((lease,),) = sender.taken
        assert (lease.text, lease.ticket, lease.permit) == ("text", 77, 1)
        assert await world.states() == {"text": "sending"}
        (attempt,) = await world.attempts()
        assert (attempt["lease"], attempt["outcome"]) == (lease.lease, None)
        assert await world.one("SELECT next_slot > clock_timestamp() AS moved FROM listener.account") == {"moved": True}
        assert (sender.queued, sender.withdrawn) == (0, 0)
        # The slot is taken: the next one queues.
        await world.note("other", "more")
        await look()
        assert sender.taken[1] == ()
        assert await world.states() == {"text": "sending", "more": "waiting"}
        assert sender.queued == 1
        assert await world.one(
            "SELECT next_at <= clock_timestamp() AS due FROM listener.thread WHERE next_at IS NOT NULL"
        )


@pytest.mark.parametrize(
    "stop",
    [
        "UPDATE listener.account SET stopped_until = 'infinity', stopped_reason = 'a person'",
        """UPDATE listener.account SET streak = 1, paused_at = now(), paused_until = now() - interval '1 s',
                  pause_kind = 'rate', pause_reason = '429'""",
        "UPDATE listener.account SET next_slot = now() + interval '1 s'",
        "INSERT INTO listener.thread (account, name, next_at, priority) VALUES ('main', 'older', now(), 2)",
    ],
    ids=["stopped", "to be probed", "no slot", "something else is due"],
)
async def test_it_queues_when_it_may_not_go_now(erp_database: str, stop: str) -> None:
    sender = Sender()
    async with matching(erp_database, sender) as (world, look):
        await world.db.execute(stop.encode())
        before = await world.one("SELECT next_slot::text FROM listener.account")
        await world.note("order", "text")
        await look()
        assert sender.taken == [()]
        assert sender.queued == 1
        assert await world.attempts() == []
        assert await world.one(
            "SELECT next_at <= clock_timestamp() AS due FROM listener.thread WHERE name LIKE '%%order'"
        )
        assert await world.one("SELECT next_slot::text FROM listener.account") == before


async def test_it_waits_for_nobody_who_is_at_the_account(erp_database: str) -> None:
    sender = Sender()
    async with matching(erp_database, sender) as (world, look), await connect(world.settings, "other") as other:
        async with other.transaction():
            await other.execute("SELECT FROM listener.account FOR UPDATE")
            await world.note("order", "text")
            async with asyncio.timeout(5):
                await look()
        assert sender.taken == [()]
        assert await world.states() == {"text": "waiting"}


async def test_an_older_message_of_the_thread_goes_first(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.note("order", "first")
        await look()
        assert sender.queued == 0
        await world.note("order", "second")
        await look()
        assert [lease.text for leases in sender.taken for lease in leases] == ["first"]
        assert await world.states() == {"first": "sending", "second": "waiting"}
        assert sender.queued == 1


async def test_two_of_one_thread_queue(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.notes([("order", "first"), ("order", "second")])
        await look()
        assert sender.offered == []
        assert await world.states() == {"first": "waiting", "second": "waiting"}


async def test_few_that_come_together_go_at_once(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.notes([(f"order {n}", f"text {n}") for n in range(AT_ONCE)])
        await look()
        ((*leases,),) = sender.taken
        assert sorted(lease.text for lease in leases) == [f"text {n}" for n in range(AT_ONCE)]
        assert set((await world.states()).values()) == {"sending"}
        assert sender.queued == 0


async def test_many_that_come_together_queue(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.notes([(f"order {n}", f"text {n}") for n in range(AT_ONCE + 1)])
        await look()
        assert sender.offered == []
        assert set((await world.states()).values()) == {"waiting"}
        assert sender.queued == 1


async def test_few_that_come_together_queue_if_there_are_not_slots_for_all(erp_database: str) -> None:
    """At 100/s a slot that was missed by 10 ms is made up for, and no more: there are two."""
    sender = Sender(rate=100.0)
    async with matching(erp_database, sender) as (world, look):
        await world.notes([(f"order {n}", f"text {n}") for n in range(3)])
        await look()
        assert sender.taken == [()]
        assert set((await world.states()).values()) == {"waiting"}
        assert sender.queued == 1
        await world.db.execute("UPDATE listener.thread SET next_at = NULL")
        await world.notes([(f"other {n}", f"more {n}") for n in range(2)])
        await look()
        assert {lease.text for lease in sender.taken[1]} == {"more 0", "more 1"}
        slot = await world.one(
            """SELECT extract(epoch FROM a.next_slot - p.leased_at)::float8 AS ahead
                 FROM listener.account a, (SELECT min(leased_at) AS leased_at FROM listener.attempt) AS p"""
        )
        taken = 2 * messages.SPACING / 100 - messages.SLACK
        assert slot["ahead"] == pytest.approx(taken, abs=0.005)


@pytest.mark.parametrize(
    "stop",
    [
        "UPDATE listener.thread SET lease = 1, next_at = NULL",
        "UPDATE listener.thread SET ticket_wait_until = now() + interval '1 min'",
        "UPDATE listener.thread SET refused_ticket = 77",
        "INSERT INTO listener.pause (target, value, reason, who) VALUES ('rule', 'another', 'why', 'me')",
    ],
    ids=["on its way", "an unclear one before it", "its ticket was refused", "something is paused"],
)
async def test_it_queues_when_its_thread_is_not_as_usual(erp_database: str, stop: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.db.execute("INSERT INTO listener.thread (account, name) VALUES ('main', %s)", [THREAD])
        await world.db.execute(stop.encode())
        await world.note("order", "text", ticket=77)
        await look()
        assert sender.taken == [()]
        assert await world.states() == {"text": "waiting"}
        assert await world.attempts() == []


async def test_a_message_of_a_paused_rule_is_held_and_does_not_go(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.db.execute(
            "INSERT INTO listener.pause (target, value, reason, who) VALUES ('rule', 'note', 'why', 'me')"
        )
        await world.note("order", "text")
        await look()
        assert sender.taken == [()]
        assert await world.states() == {"text": "held"}


async def test_it_goes_on_the_ticket_of_its_thread(erp_database: str) -> None:
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.db.execute("INSERT INTO listener.thread (account, name, ticket_id) VALUES ('main', 'order', 5)")
        await world.note("order", "text")
        await look()
        ((lease,),) = sender.taken
        assert lease.ticket == 5
        assert await world.one("SELECT ticket_sent FROM listener.attempt") == {"ticket_sent": 5}


async def test_whoever_comes_in_between_makes_it_queue(erp_database: str) -> None:
    """A thread that is made, and put in the queue, by a transaction that was not over when ours looked."""
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look), await connect(world.settings, "other") as other:
        await world.note("order", "text")
        async with other.transaction():
            await other.execute(
                f"INSERT INTO listener.thread (account, name, next_at) VALUES ('main', '{THREAD}', 'infinity')".encode()
            )
            looking = asyncio.create_task(look())
            await world.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        await looking
        # surely nothing came of it: that need not be found out
        assert (sender.taken, sender.withdrawn) == ([()], 0)
        assert await world.states() == {"text": "waiting"}
        assert await world.one("SELECT count(*) FROM listener.outbox") == {"count": 0}


async def test_a_permit_is_on_the_disk_before_it_is_used(erp_database: str) -> None:
    """The matcher's other transactions need not be."""
    sender = Sender(rate=None)
    async with matching(erp_database, sender) as (world, look):
        await world.note("order", "text")
        await look()
        ((lease,),) = sender.taken
        assert lease.text == "text"
        row = await world.one("SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() AS flushed")
        assert row == {"flushed": True}


async def test_what_is_not_to_be_sent_now_asks_for_nothing(erp_database: str) -> None:
    sender = Sender()
    async with matching(erp_database, sender) as (world, look):
        await world.note("order", "no phone", phone="nobody")
        await look()
        assert await world.states() == {"no phone": "rejected"}
        assert sender.offered == []
        assert sender.queued == 1


async def test_a_refusal_of_the_database_ends_the_offer_and_arms_nothing(erp_database: str) -> None:
    """It queues instead: whatever was against the permit is perhaps not against the message."""
    sender = Sender()
    async with matching(erp_database, sender) as (world, look):
        await world.db.execute("ALTER TABLE listener.attempt ADD CONSTRAINT never CHECK (false) NOT VALID")
        await world.note("order", "text")
        await look()
        assert (sender.taken, sender.withdrawn, sender.queued) == ([()], 0, 1)
        assert await world.states() == {"text": "waiting"}
        await world.db.execute("ALTER TABLE listener.message ADD CONSTRAINT never CHECK (false) NOT VALID")
        await world.note("other", "more")
        with pytest.raises(Exception, match="never"):
            await look()
        assert sender.withdrawn == 0
        assert await world.states() == {"text": "waiting"}
        assert len(await world.rows("SELECT * FROM listener.outbox")) == 1

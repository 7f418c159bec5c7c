"""Two who meet between one's statements: what the other one does just then is neither lost nor passed over."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncTransaction

from listener import accounts, messages, pauses, personal
from listener.database import BY_INDEX, Connection, Link, connect
from listener.matching import Matcher
from listener.model import Accepted, Lease, NotSent
from listener.pauses import Scope, Target
from listener.queries import load
from listener.rulebook import open_rulebook
from listener.settling import Result, settle
from tests.integration.test_delivery_at_once import Sender
from tests.support.world import PHONE, World, open_world

RULE = Target(scope=Scope.RULE, value="note")
# per second
RATE = 12.0


@asynccontextmanager
async def new_matcher(world: World, sender: Sender | None = None) -> AsyncIterator[Matcher]:
    link = Link(world.settings, "upkeep")
    book = await open_rulebook(world.settings, link)
    await link.close()
    matcher = Matcher(world.settings, book, lambda: None, express=sender)
    try:
        yield matcher
    finally:
        await matcher.close()


class Gate:
    """Holds a connection's next COMMIT back until it is opened; what is to be committed is done by then."""

    def __init__(self, conn: Connection) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._leave = leave = AsyncTransaction.__aexit__

        async def held(transaction: AsyncTransaction, *error: Any) -> bool:
            if transaction.connection is conn:
                await (await conn.execute("SELECT")).fetchall()
                self.reached.set()
                await self._open.wait()
            return await leave(transaction, *error)

        AsyncTransaction.__aexit__ = held  # type: ignore[method-assign]

    def open(self) -> None:
        AsyncTransaction.__aexit__ = self._leave  # type: ignore[method-assign]
        self._open.set()


async def leased(world: World, text: str) -> Lease:
    """A message's permit, which nobody uses."""
    sender = Sender(rate=None)
    async with new_matcher(world, sender) as matcher:
        await world.note("order", text)
        await matcher.look()
    ((lease,),) = sender.taken
    return lease


def row(number: int, thread: str, **more: object) -> dict[str, object]:
    """A message as it is planned."""
    return {
        "place": 0, "change_id": number, "rule": "note", "watch": "note", "key": thread, "account": "main",
        "thread": thread, "priority": 1, "phone": PHONE, "text": f"text {number}", "parts": 1, "encoding": "gsm",
        "state": "waiting", "reason": None, "ticket_own": None, "if_unsure": "hold", "max_block_s": 600, "save": None,
        "joins": None, "due_at": None, "expires_at": "2099-01-01T00:00:00Z", "recheck": None, "quiet_at": None,
        "quiet_until": None, **more,
    }  # fmt: skip


async def test_what_comes_to_a_pause_that_is_just_ending_is_let_go(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await pauses.pause(world.db, RULE, reason="why", until=None, by="lan")
        async with new_matcher(world) as matcher:
            async with matcher.link.use() as conn:
                gate = Gate(conn)
            await world.note("order", "text")
            looking = asyncio.create_task(matcher.look())
            await gate.reached.wait()
            await pauses.resume(world.db, RULE, reason=None, by="lan")
            gate.open()
            await looking
        assert await world.states() == {"text": "held"}
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.finished WHERE state = 'accepted'")


async def test_what_comes_back_to_a_pause_that_is_just_ending_is_let_go(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        lease = await leased(world, "text")
        await pauses.pause(world.db, RULE, reason="why", until=None, by="lan")
        async with await connect(world.settings, "settle") as conn:
            gate = Gate(conn)
            settling = asyncio.create_task(
                settle(conn, [Result(lease=lease, outcome=NotSent(cause="late"))], lambda: 0.5)
            )
            await gate.reached.wait()
            resuming = asyncio.create_task(pauses.resume(world.db, RULE, reason=None, by="lan"))
            await asyncio.wait([resuming], timeout=0.2)
            gate.open()
            await asyncio.gather(settling, resuming)
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.finished WHERE state = 'accepted'")


async def test_a_message_for_a_thread_that_somebody_else_is_making_is_woken(erp_database: str) -> None:
    async with open_world(erp_database) as world, new_matcher(world) as matcher:
        await world.note("order", "second")
        async with matcher.link.use() as conn:
            gate = Gate(conn)
        async with await connect(world.settings, "other") as other:
            async with other.transaction():
                await messages.lock_threads(other, {("main", "order")})
                await messages.insert(other, 1, [row(900, "order")])
                await messages.wake_threads(other, {("main", "order")})
                looking = asyncio.create_task(matcher.look())
                await world.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            await gate.reached.wait()
            async with world.service():
                # Whoever sends the first one sees the second, or waits until it is there.
                await asyncio.wait([looking], timeout=0.5)
                gate.open()
                await looking
                await world.until("SELECT count(*) = 2 FROM listener.finished WHERE state = 'accepted'")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_message_that_comes_while_its_thread_is_being_let_go_is_seen(erp_database: str, level: str) -> None:
    """Whatever isolation the database gives to those who ask for none."""
    async with open_world(erp_database) as world:
        name = world.db.info.dbname
        await world.db.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'".encode())
        lease = await leased(world, "first")
        async with new_matcher(world) as matcher, await connect(world.settings, "settle") as conn:
            async with matcher.link.use() as theirs:
                gate = Gate(theirs)
            await world.note("order", "second")
            looking = asyncio.create_task(matcher.look())
            await gate.reached.wait()
            result = Result(lease=lease, outcome=Accepted(ticket=5), ms=1)
            settling = asyncio.create_task(settle(conn, [result], lambda: 0.5))
            await world.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            gate.open()
            await asyncio.gather(looking, settling)
        async with world.service():
            await world.settled()
        assert await world.states() == {"first": "accepted", "second": "accepted"}


async def test_who_locked_a_thread_first_is_first_in_it(erp_database: str) -> None:
    """However long ago the other one had begun."""
    async with open_world(erp_database) as world, new_matcher(world) as matcher:
        await pauses.pause(world.db, Target(scope=Scope.ACCOUNT, value="main"), reason="why", until=None, by="lan")
        async with await connect(world.settings, "late") as late:
            # A transaction that began before, and gets to the thread after.
            await late.execute("BEGIN")
            await late.execute("SELECT now()")
            await world.note("order", "first")
            await matcher.look()
            await messages.lock_threads(late, {("main", "order")})
            await messages.insert(late, 1, [row(900, "order")])
            await late.execute("COMMIT")
        found = await world.rows("SELECT text FROM listener.message ORDER BY order_at, id")
        assert [m["text"] for m in found] == ["first", "text 900"]


@pytest.mark.faults
async def test_a_slot_that_is_taken_meanwhile_is_not_given_again(erp_database: str) -> None:
    """Questions about tickets and SMS that go at once take slots of one account, each in a hurry."""
    slot = load("reconcile")["slot"]
    spacing = messages.spacing(RATE)
    async with open_world(erp_database) as world:
        await accounts.add(world.db, ["main"])
        await world.db.execute("CREATE TABLE public.slots (at timestamptz)")
        asking, sending = await connect(world.settings, "upkeep"), await connect(world.settings, "match", **BY_INDEX)
        until = asyncio.get_running_loop().time() + 4

        async def ask() -> None:
            while asyncio.get_running_loop().time() < until:
                async with asking.transaction():
                    taken = await (await asking.execute(slot, {"account": "main", "interval": spacing})).fetchone()
                    if taken is not None:
                        await asking.execute("INSERT INTO public.slots VALUES (%s)", [taken["at"]])

        async def send() -> None:
            number = 1000
            while asyncio.get_running_loop().time() < until:
                number += 1
                terms = messages.Terms(account="main", token=number, replica=uuid4(), rate=RATE, want=1, deadline=60.0)
                await messages.insert_armed(sending, 1, [row(number, f"thread {number}")], [], **terms)

        await asyncio.gather(ask(), send())
        await asking.close()
        await sending.close()
        found = await world.rows(
            "SELECT leased_at AS at FROM listener.attempt UNION ALL SELECT at FROM public.slots ORDER BY 1"
        )
        gaps = [(b["at"] - a["at"]).total_seconds() for a, b in itertools.pairwise(found)]
        assert len(gaps) > RATE
        assert min(gaps) > spacing - 2 * messages.SLACK


async def test_a_phone_that_is_suppressed_while_its_message_is_being_sent_gets_none_later(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        lease = await leased(world, "text")
        await personal.suppress(world.db, PHONE, by="lan", reason="asked to")
        async with await connect(world.settings, "settle") as conn:
            await settle(conn, [Result(lease=lease, outcome=NotSent(cause="late"))], lambda: 0.5)
        (message,) = await world.messages()
        assert (message["state"], message["reason"]) == ("held", "the phone is on the suppression list")
        await world.once()
        assert world.arrived() == []


async def test_an_account_that_is_added_while_everything_is_being_paused_is_paused(erp_database: str) -> None:
    async with open_world(erp_database) as world, await connect(world.settings, "person") as person:
        await person.execute("BEGIN")
        await pauses.pause(person, Target(scope=Scope.ALL), reason="why", until=None, by="lan")
        adding = asyncio.create_task(accounts.add(world.db, ["second"]))
        await asyncio.wait([adding], timeout=0.2)
        await person.execute("COMMIT")
        await adding
        assert await world.one("SELECT stopped_reason FROM listener.account WHERE name = 'second'") == {
            "stopped_reason": "why"
        }


FREEZE = """
import os, signal
from listener import messages
insert_armed = messages.insert_armed
async def freeze(*args, **more):
    made = await insert_armed(*args, **more)
    os.kill(os.getpid(), signal.SIGSTOP)
    return made
messages.insert_armed = freeze
from listener.cli import main; main()
"""
STUCK = """SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'listener match' AND state = 'active'
    AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '5 s')"""
ACCEPTED = "SELECT count(*) = %s FROM listener.finished WHERE state = 'accepted'"


@pytest.mark.faults
async def test_who_stands_still_between_two_statements_stops_nobody_for_long(erp_database: str) -> None:
    """It holds the matcher's lock, the account and a thread, and no time-out of the server's counts."""
    async with open_world(erp_database) as world:
        frozen = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FREEZE, "run", env={**os.environ, **world.environment()},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await world.until("SELECT EXISTS (SELECT FROM listener.replica)")
            # A replica that has just begun sends its first ones through the queue, and freezes at none of them.
            texts: list[str] = []
            while len(await world.rows("SELECT FROM listener.finished")) == len(texts):
                texts.append(f"text {len(texts)}")
                await world.note("order", texts[-1])
                await world.until(f"SELECT ({STUCK}) OR ({ACCEPTED})", len(texts))
            async with world.service():
                await world.note("another", "more")
                await world.until(ACCEPTED, len(texts) + 1, seconds=30)
                frozen.send_signal(signal.SIGCONT)
                await world.note("a third", "last")
                await world.until(ACCEPTED, len(texts) + 2)
            assert sorted(world.arrived()) == ["last", "more", *texts]
        finally:
            frozen.kill()
            await frozen.wait()

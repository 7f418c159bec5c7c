"""F01: `kill -9` at every step of one delivery, then a fresh replica: never twice, never lost, and shown if unclear."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

import pytest

from listener.database import Connection as PgConnection
from listener.database import connect
from listener.simulator.gateway import Break, Ending, Fault, Moment, Request
from tests.faults.test_soak import LONG
from tests.support.proxy import COMMITTED, Connection, Direction, Mode, Proxy
from tests.support.world import Replica, World, open_world

# seconds for a request
TIMEOUT = 5.0 if not LONG else 1.0
LEASE, MATCH, SETTLE = "listener lease", "listener match", "listener settle"


@dataclass(slots=True)
class Scene:
    """One world for all points: a database and a gateway, each behind a proxy that halts the replica somewhere."""

    world: World
    database: Proxy
    gateway: Proxy
    requested: asyncio.Event
    victim: Replica
    body: str = ""

    async def start(self, scheme: str = "http") -> None:
        """Another victim."""
        url = self.gateway.url.replace("http", scheme, 1)
        self.victim = await self.world.replica(LISTENER_DATABASE_URL=self.database.dsn, LISTENER_CARESOFT_URL=url)

    def halt(self, proxy: Proxy, when: Callable[[Connection, Direction, bytes], bool]) -> asyncio.Event:
        """Holds the first bytes for which `when` is true, and whatever follows them; the event says that it is so."""
        halted = asyncio.Event()

        def look(connection: Connection, direction: Direction, data: bytes) -> None:
            if not halted.is_set() and when(connection, direction, data):
                connection.switch(Mode.HOLD)
                halted.set()

        proxy.watch(look)
        return halted

    def at_database(self, name: str, direction: Direction, *marks: bytes) -> asyncio.Event:
        """When bytes with all `marks` pass on the connection `name`."""
        return self.halt(
            self.database,
            lambda c, d, data: d is direction and name.encode() in c.greeting and all(mark in data for mark in marks),
        )


async def _holder(world: World) -> PgConnection:
    """A connection that may hold a lock for as long as a replica takes to meet it."""
    return await connect(world.settings, "holder", idle_in_transaction_session_timeout="0")


async def _before_the_lease(scene: Scene) -> None:
    while not scene.database.named(LEASE):
        await asyncio.sleep(0.01)
    scene.database.switch(Mode.HOLD, Direction.UP, of=LEASE)
    # Whoever is at the account keeps the matcher from taking the permit itself.
    async with await _holder(scene.world) as holder, holder.transaction():
        await holder.execute("SELECT FROM listener.account FOR UPDATE")
        await scene.world.note(scene.body, scene.body)
        await scene.world.until("SELECT count(*) = 1 FROM listener.message WHERE state = 'waiting'")


async def _in_the_middle_of_the_lease(scene: Scene) -> None:
    """The slot is taken and the message is not armed; the server finds out that nobody is there."""
    world = scene.world
    async with await _holder(world) as row, row.transaction():
        async with await _holder(world) as account, account.transaction():
            await account.execute("SELECT FROM listener.account FOR UPDATE")
            await world.note(scene.body, scene.body)
            await world.until("SELECT count(*) = 1 FROM listener.message WHERE state = 'waiting'")
            await row.execute("SELECT FROM listener.message WHERE state = 'waiting' FOR UPDATE")
        arming = """FROM pg_stat_activity WHERE application_name = 'listener lease' AND wait_event_type = 'Lock'
                     AND datname = current_database() AND query LIKE '%%armed%%'"""
        await world.until(f"SELECT count(*) = 1 {arming}")
        await scene.victim.kill()
        await world.rows(f"SELECT pg_terminate_backend(pid) {arming}")
        await world.until(f"SELECT count(*) = 0 {arming}")


async def _after_the_lease(scene: Scene) -> None:
    async with await _holder(scene.world) as holder, holder.transaction():
        halted = scene.at_database(LEASE, Direction.DOWN, scene.body.encode(), COMMITTED)
        await holder.execute("SELECT FROM listener.account FOR UPDATE")
        await scene.world.note(scene.body, scene.body)
        await scene.world.until("SELECT count(*) = 1 FROM listener.message WHERE state = 'waiting'")
    await halted.wait()


async def _before_the_matchers_own_lease(scene: Scene) -> None:
    halted = scene.at_database(MATCH, Direction.UP, scene.body.encode())
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _after_the_matchers_own_lease(scene: Scene) -> None:
    halted = scene.at_database(MATCH, Direction.DOWN, scene.body.encode(), COMMITTED)
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _connected(scene: Scene) -> None:
    """Over TLS, whose greeting is not answered: nothing of the request can have been written."""
    await scene.victim.kill()
    await scene.start("https")
    halted = scene.halt(scene.gateway, lambda _c, d, data: d is Direction.UP and data.startswith(b"\x16"))
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _before_the_first_byte_arrives(scene: Scene) -> None:
    halted = scene.halt(scene.gateway, lambda _c, d, _data: d is Direction.UP)
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _request_received(scene: Scene) -> None:
    scene.requested.clear()
    await scene.world.note(scene.body, scene.body)
    await scene.requested.wait()


async def _status_line_sent(scene: Scene) -> None:
    scene.world.gateway.add_fault(Fault(action=Break(moment=Moment.AFTER_STATUS_LINE, ending=Ending.HANG)))
    passed = _passes_down(scene)
    await scene.world.note(scene.body, scene.body)
    await passed.wait()


async def _answer_sent(scene: Scene) -> None:
    # The settling connection is made at its first use.
    scene.database.switch(Mode.HOLD, Direction.UP, of=SETTLE)
    halted = scene.at_database(SETTLE, Direction.UP)
    passed = _passes_down(scene)
    await scene.world.note(scene.body, scene.body)
    await passed.wait()
    if not scene.database.named(SETTLE):
        await halted.wait()


def _passes_down(scene: Scene) -> asyncio.Event:
    """Set when the gateway's first bytes have gone on to the replica."""
    passed = asyncio.Event()
    scene.gateway.watch(lambda _c, d, _data: passed.set() if d is Direction.DOWN else None)
    return passed


async def _answer_on_its_way(scene: Scene) -> None:
    halted = scene.halt(scene.gateway, lambda _c, d, _data: d is Direction.DOWN)
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _before_the_result_commits(scene: Scene) -> None:
    halted = scene.at_database(SETTLE, Direction.UP, b'"accepted"')
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _after_the_result_commits(scene: Scene) -> None:
    halted = scene.at_database(SETTLE, Direction.DOWN, COMMITTED)
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


# what comes of it, and how many requests the gateway gets
POINTS = {
    _before_the_lease: ("accepted", 1),
    _in_the_middle_of_the_lease: ("accepted", 1),
    _after_the_lease: ("unknown", 0),
    _before_the_matchers_own_lease: ("accepted", 1),
    _after_the_matchers_own_lease: ("unknown", 0),
    _connected: ("unknown", 0),
    _before_the_first_byte_arrives: ("unknown", 0),
    _request_received: ("unknown", 1),
    _answer_on_its_way: ("unknown", 1),
    _status_line_sent: ("unknown", 1),
    _answer_sent: ("unknown", 1),
    _before_the_result_commits: ("unknown", 1),
    _after_the_result_commits: ("accepted", 1),
}


@pytest.mark.timeout(3600 if LONG else 120)
async def test_killed_at_any_step_nothing_is_lost_or_sent_twice(erp_database: str) -> None:
    """In long runs 20 times at each, with the sweep's own time."""
    requested = asyncio.Event()

    async def on_request(_: Request) -> None:
        requested.set()

    async with (
        open_world(erp_database, on_request=on_request, http_timeout=TIMEOUT) as world,
        Proxy.to_database(erp_database) as database,
        Proxy(("127.0.0.1", int(world.gateway.url.rpartition(":")[2]))) as gateway,
    ):
        nobody = await world.replica(wait=False)
        scene = Scene(world=world, database=database, gateway=gateway, requested=requested, victim=nobody)
        await nobody.kill()
        await scene.start()
        for number in range(20 if LONG else 1):
            for point, (state, requests) in POINTS.items():
                scene.body = f"{point.__name__} {number}"
                await _kill_at(scene, point, state, requests)
        assert await scene.victim.stop() == 0
        # All that the gateway has, it has once, and no thread is left behind.
        assert world.gateway.state.counters().duplicates == []
        assert await world.rows("SELECT FROM listener.thread WHERE lease IS NOT NULL OR next_at IS NOT NULL") == []


async def _kill_at(scene: Scene, point: Callable[[Scene], Awaitable[None]], state: str, requests: int) -> None:
    world, before = scene.world, len(scene.world.gateway.state.requests)
    async with asyncio.timeout(20):
        await point(scene)
    await scene.victim.kill()
    killed = monotonic()
    for proxy in (scene.database, scene.gateway):
        proxy.switch(Mode.PASS)
        proxy.cut()
    world.gateway.state.faults.clear()
    if not LONG:
        # The sweep's time has come at once.
        await world.db.execute("UPDATE listener.message SET lease_until = now() WHERE state = 'sending'")
    await scene.start()
    await world.settled(TIMEOUT + 35)
    assert monotonic() - killed <= TIMEOUT + 35
    row = await world.one("SELECT state, reason FROM listener.messages WHERE text = %s", scene.body)
    assert (scene.body, row["state"]) == (scene.body, state)
    assert len(world.gateway.state.requests) - before == requests, scene.body
    if state == "unknown":
        assert row["reason"] == "perhaps sent: whoever sent it did not come back"

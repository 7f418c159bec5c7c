"""F01: `kill -9` at every step of one delivery, then a fresh replica: never twice, never lost, and shown if unclear."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from listener.database import connect
from listener.simulator.gateway import Request
from tests.support.proxy import COMMITTED, Connection, Direction, Mode, Proxy
from tests.support.world import World, open_world

LEASE, MATCH, SETTLE = "listener lease", "listener match", "listener settle"


@dataclass(slots=True)
class Scene:
    """One world for all points: a database and a gateway, each behind a proxy that halts the replica somewhere."""

    world: World
    database: Proxy
    gateway: Proxy
    requested: asyncio.Event
    body: str = ""

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


async def _before_the_lease(scene: Scene) -> None:
    while not scene.database.named(LEASE):
        await asyncio.sleep(0.01)
    scene.database.switch(Mode.HOLD, Direction.UP, of=LEASE)
    # Whoever is at the account keeps the matcher from taking the permit itself.
    async with await connect(scene.world.settings, "holder") as holder, holder.transaction():
        await holder.execute("SELECT FROM listener.account FOR UPDATE")
        await scene.world.note(scene.body, scene.body)
        await scene.world.until("SELECT count(*) = 1 FROM listener.message WHERE state = 'waiting'")


async def _after_the_lease(scene: Scene) -> None:
    async with await connect(scene.world.settings, "holder") as holder, holder.transaction():
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


async def _before_the_first_byte_arrives(scene: Scene) -> None:
    halted = scene.halt(scene.gateway, lambda _c, d, _data: d is Direction.UP)
    await scene.world.note(scene.body, scene.body)
    await halted.wait()


async def _request_received(scene: Scene) -> None:
    scene.requested.clear()
    await scene.world.note(scene.body, scene.body)
    await scene.requested.wait()


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
    _after_the_lease: ("unknown", 0),
    _before_the_matchers_own_lease: ("accepted", 1),
    _after_the_matchers_own_lease: ("unknown", 0),
    _before_the_first_byte_arrives: ("unknown", 0),
    _request_received: ("unknown", 1),
    _answer_on_its_way: ("unknown", 1),
    _before_the_result_commits: ("unknown", 1),
    _after_the_result_commits: ("accepted", 1),
}


async def test_killed_at_any_step_nothing_is_lost_or_sent_twice(erp_database: str) -> None:
    requested = asyncio.Event()

    async def on_request(_: Request) -> None:
        requested.set()

    async with open_world(erp_database, on_request=on_request) as world, Proxy.to_database(erp_database) as database:
        port = int(world.gateway.url.rpartition(":")[2])
        async with Proxy(("127.0.0.1", port)) as gateway:
            scene = Scene(world=world, database=database, gateway=gateway, requested=requested)
            proxies = {"LISTENER_DATABASE_URL": database.dsn, "LISTENER_CARESOFT_URL": gateway.url}
            victim = await world.replica(**proxies)
            for point, (state, requests) in POINTS.items():
                scene.body = point.__name__
                before = len(world.gateway.state.requests)
                async with asyncio.timeout(20):
                    await point(scene)
                await victim.kill()
                database.cut()
                gateway.cut()
                # The sweep's time has come at once.
                await world.db.execute("UPDATE listener.message SET lease_until = now() WHERE state = 'sending'")
                victim = await world.replica(**proxies)
                await world.settled()
                row = await world.one("SELECT state, reason FROM listener.messages WHERE text = %s", scene.body)
                assert (scene.body, row["state"]) == (scene.body, state)
                assert len(world.gateway.state.requests) - before == requests
                if state == "unknown":
                    assert row["reason"] == "perhaps sent: whoever sent it did not come back"
            assert await victim.stop() == 0
        # All that the gateway has, it has once, and no thread is left behind.
        assert world.gateway.state.counters().duplicates == []
        assert await world.rows("SELECT FROM listener.thread WHERE lease IS NOT NULL OR next_at IS NOT NULL") == []

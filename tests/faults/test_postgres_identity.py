"""F38: another server, or another database, than the one that was worked on."""

from psycopg.conninfo import conninfo_to_dict

from listener import pauses
from listener.simulator.postgres import Server
from tests.support.world import World, open_world

PAUSED = "SELECT count(*) AS n FROM listener.pause WHERE target = 'all'"


async def test_a_copy_of_the_database_sends_nothing_until_a_person_says_so(server: Server, erp_database: str) -> None:
    async with open_world(erp_database) as world:
        async with world.service():
            await world.note("sent", "sent")
            await world.gateway.wait_for(1)
            await world.settled()
        # What the copy will hold: a change that its original has sent long ago.
        await world.note("pending", "pending")
    name = str(conninfo_to_dict(erp_database)["dbname"])
    copy = server.create_database(f"{name}_copy", name)
    try:
        async with open_world(copy) as world:
            async with world.service():
                await world.until("SELECT count(*) = 1 FROM listener.message")
                await world.until("SELECT bool_and(stopped_until > now() + interval '1 year') FROM listener.account")
                assert world.arrived() == []
            assert (await world.one(PAUSED))["n"] == 1
            assert "another database" in (await world.one("SELECT reason FROM listener.pause"))["reason"]
            # Started again it still waits; a person resumes, and it goes on.
            async with world.service():
                await world.until("SELECT bool_and(stopped_until > now() + interval '1 year') FROM listener.account")
            await _resume(world)
            async with world.service():
                await world.gateway.wait_for(1)
            assert world.arrived() == ["pending"]
    finally:
        server.drop_database(f"{name}_copy")


async def test_a_server_with_another_identifier_or_timeline_is_another_server(erp_database: str) -> None:
    for harm, paused in (
        ("server = '1'", 1),
        ("timeline = timeline + 1, synchronous = false", 1),
        # a standby that never lags has every commit that was acknowledged
        ("timeline = timeline + 1, synchronous = true", 0),
        ("deaf_at = NULL", 0),
    ):
        async with open_world(erp_database) as world:
            async with world.service():
                pass
            await world.db.execute(f"UPDATE listener.fleet SET {harm}".encode())
            async with world.service():
                assert (await world.one(PAUSED))["n"] == paused, harm
            if paused:
                await _resume(world)


async def _resume(world: World) -> None:
    everything = pauses.Target(scope=pauses.Scope.ALL)
    await pauses.resume(world.db, everything, reason="looked at it", by=await pauses.who(world.db))

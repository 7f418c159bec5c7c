"""The pace when several replicas ask for a slot at the same moment."""

import asyncio
from uuid import uuid4

from listener import accounts, messages
from listener.database import Connection, connect
from tests.support.world import World, open_world

RATE = 5.0


async def test_a_slot_is_given_once_however_many_waited_for_it(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await _waiting(world, 8)
        holder = await connect(world.settings, "holder")
        asking = [await connect(world.settings, "asking") for _ in range(3)]
        async with holder.transaction():
            await holder.execute("SELECT FROM listener.account FOR UPDATE")
            looks = [asyncio.create_task(_lease(conn)) for conn in asking]
            await world.until(
                """SELECT count(*) = 3 FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock' AND datname = current_database()"""
            )
        given = [len((await look).leases) for look in looks]
        for conn in (holder, *asking):
            await conn.close()
        assert sum(given) == 1


async def _waiting(world: World, count: int) -> None:
    """So many messages in threads of their own, matched and not sent."""
    await accounts.add(world.db, ["main"])
    await world.db.execute(
        """UPDATE listener.account SET streak = 1, pause_kind = 'config', pause_reason = 'a test',
                  paused_at = now(), paused_until = now() + interval '1 hour'"""
    )
    await world.notes([(f"topic {n}", f"note {n}") for n in range(count)])
    async with world.service():
        await world.until("SELECT count(*) = %s FROM listener.message", count)
    await world.db.execute(
        """UPDATE listener.account SET streak = 0, pause_kind = NULL, pause_reason = NULL, paused_at = NULL,
                  paused_until = NULL"""
    )


async def _lease(conn: Connection) -> messages.Look:
    return await messages.lease(
        conn, account="main", token=uuid4().int >> 66, replica=uuid4(), rate=RATE, want=5, deadline=5.0
    )

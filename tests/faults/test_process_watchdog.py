"""F07: the service manager's watchdog is fed while both halves come round, and only then."""

from dataclasses import replace

import pytest

from tests.support.manager import open_manager
from tests.support.proxy import Mode, Proxy
from tests.support.world import open_world

# seconds: a half hangs when it has not come round for half of it, and the word comes four times in it
WATCHDOG = 6.0


@pytest.mark.parametrize(("half", "connection"), [("match", "listener match"), ("deliver main", "listener lease")])
async def test_a_half_that_hangs_is_not_covered_up_by_the_other(erp_database: str, half: str, connection: str) -> None:
    async with (
        open_world(erp_database) as world,
        open_manager(world.folder) as manager,
        Proxy.to_database(erp_database) as proxy,
    ):
        world.settings = replace(world.settings, database_url=proxy.dsn)
        replica = await world.replica(**manager.environment(WATCHDOG))
        await world.note("topic", "note")
        await world.settled()
        heard = await manager.hears(WATCHDOG="1")
        proxy.switch(Mode.HOLD, of=connection)
        hung = await manager.hears(heard, STATUS=f"{half} hangs since ")
        again = await manager.hears(hung, STATUS=f"{half} hangs since ")
        assert not any("WATCHDOG" in said for said in manager.said[hung - 1 : again]), manager.said
        proxy.switch(Mode.PASS, of=connection)
        await manager.hears(again, WATCHDOG="1", STATUS="rules version 1")
        assert replica.process.returncode is None


async def test_a_database_that_is_away_is_no_reason_to_be_ended(erp_database: str) -> None:
    async with (
        open_world(erp_database) as world,
        open_manager(world.folder) as manager,
        Proxy.to_database(erp_database) as proxy,
    ):
        direct = world.settings
        world.settings = replace(direct, database_url=proxy.dsn)
        await world.replica(**manager.environment(2 * WATCHDOG))
        heard = await manager.hears(READY="1")
        proxy.switch(Mode.RESET)
        # All that it can do is try again; the status says what is the matter.
        for _ in range(2):
            heard = await manager.hears(heard, WATCHDOG="1")
        proxy.switch(Mode.PASS)
        world.settings = direct
        await world.note("topic", "note")
        await world.settled()
        assert not any("hangs" in said.get("STATUS", "") for said in manager.said), manager.said

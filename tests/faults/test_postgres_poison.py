"""F28, F65: a change that the database will not take as a message stops no other."""

import random

from tests.support.world import open_world


async def test_a_key_too_long_for_an_index_stops_no_other_change(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        # not to be compressed below the 2,700 bytes that an index row may hold
        letters = random.Random(28).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000)
        await world.notes([("before", "before"), ("".join(letters), "poison"), ("after", "after")])
        async with world.service() as service:
            await world.gateway.wait_for(2)
            await world.settled()
            await world.note("later", "later")
            await world.gateway.wait_for(3)
            assert not service.stopping.is_set()
        assert world.arrived() == ["before", "after", "later"]
        noted = await world.one("SELECT note FROM listener.change WHERE note IS NOT NULL")
        assert noted["note"] == "could not be made into messages (ProgramLimitExceeded)"

"""Several `listener run` processes on one database."""

from tests.support.world import open_world


async def test_replicas_share_the_work_in_order(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for _ in range(2):
            await world.replica()
        await world.notes([(f"order {n % 10}", f"text {n}") for n in range(60)])
        await world.settled()
        assert sorted(world.arrived()) == sorted(f"text {n}" for n in range(60))
        assert [await replica.stop() for replica in world.replicas] == [0, 0]

"""From a change to an SMS on the right ticket, over real HTTP."""

from tests.support.world import open_world


async def test_changes_arrive_in_order_on_one_ticket(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([("order", f"text {n}") for n in range(6)])
        async with world.service():
            await world.settled()
        assert world.arrived() == [f"text {n}" for n in range(6)]
        assert [e.ticket_id_sent for e in world.gateway.state.ledger] == [None, *[1_000_001] * 5]

"""From a change to an SMS on the right ticket, over real HTTP."""

import asyncio

from listener.simulator.gateway import Answer, Fault
from tests.support.world import open_world, rules_text


async def test_changes_arrive_in_order_on_one_ticket(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.notes([("order", f"text {n}") for n in range(6)])
        async with world.service():
            await world.settled()
        assert world.arrived() == [f"text {n}" for n in range(6)]
        assert [e.ticket_id_sent for e in world.gateway.state.ledger] == [None, *[1_000_001] * 5]


async def test_a_run_once_ends_though_messages_wait_for_an_account_that_is_gone(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=429)))
        await world.note("one", "sent by nobody")
        assert await world.once() == 1
        world.use_rules(rules_text().replace("  main:", "  other:").replace("account: main", "account: other"))
        await world.db.execute("UPDATE listener.account SET paused_until = now()")
        await world.note("two", "sent by the other account")
        async with asyncio.timeout(20):
            assert await world.once() == 1
        assert await world.states() == {"sent by nobody": "waiting", "sent by the other account": "accepted"}

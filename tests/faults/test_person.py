"""F61: a person steps in, twice and from two places, while the answer to the first request is still on its way."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from listener.simulator.gateway import Request
from tests.support.browser import ADMIN, Person, person
from tests.support.verbs import verb
from tests.support.world import World, open_world

ROUNDS = 50 if os.environ.get("LISTENER_LONG") == "1" else 6


@dataclass(slots=True)
class Scene:
    """A service whose gateway holds its answers while `answers` is not set, and two people at their browsers."""

    world: World
    people: list[Person]
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def unclear(self, text: str) -> int:
        """A message that was given up as unknown while its request is still at the gateway; its number."""
        self.answers.clear()
        self.reached.clear()
        await self.world.note(text, text)
        async with asyncio.timeout(10):
            await self.reached.wait()
        await self.world.db.execute("UPDATE listener.message SET lease_until = now() - interval '1 s'")
        await self.world.until("SELECT state = 'unknown' FROM listener.messages WHERE text = %s", text)
        return int((await self.world.one("SELECT id FROM listener.messages WHERE text = %s", text))["id"])

    async def accepted(self, text: str) -> None:
        await self.world.until("SELECT state = 'accepted' FROM listener.messages WHERE text = %s", text)

    def requests(self, text: str) -> int:
        return sum(request.content == text for request in self.world.gateway.state.requests)


@asynccontextmanager
async def scene(database: str) -> AsyncIterator[Scene]:
    held: list[Scene] = []

    async def on_request(_: Request) -> None:
        held[0].reached.set()
        await held[0].answers.wait()

    async with (
        open_world(database, on_request=on_request, http_timeout=30.0) as world,
        world.service(admin_token=ADMIN) as service,
        person(service.address) as one,
        person(service.address) as other,
    ):
        held.append(Scene(world=world, people=[one, other]))
        try:
            yield held[0]
        finally:
            held[0].answers.set()


async def test_resent_twice_from_two_places_while_the_answer_comes_late(erp_database: str) -> None:
    """At most one more request, one decision on record, and the first answer counts."""
    rng = random.Random(61)
    async with scene(erp_database) as at:
        for n in range(ROUNDS):
            text = f"text {n}"
            message = await at.unclear(text)
            presses = [at.people[i % 2].post(f"/messages/{message}/retry") for i in range(4)]
            pressing = asyncio.gather(*presses)
            # The answer comes before, between or after them.
            await asyncio.sleep(rng.uniform(0, 0.05))
            at.answers.set()
            await pressing
            await at.accepted(text)
            decided = await at.world.one(
                """SELECT coalesce(sum(count), 0) AS n, count(*) AS asked, bool_and(who LIKE '%%Lan%%') AS known
                     FROM listener.audit WHERE verb = 'retry' AND what -> 'ids' @> to_jsonb(%s::bigint)""",
                message,
            )
            assert decided["n"] <= 1
            assert decided["known"]
            assert at.requests(text) <= 1 + decided["n"]
            row = await at.world.one("SELECT ticket_id FROM listener.messages WHERE text = %s", text)
            assert row["ticket_id"] in {e.ticket_id for e in at.world.gateway.state.ledger if e.content == text}
        await at.world.settled()
        assert set((await at.world.states()).values()) == {"accepted"}


async def test_what_a_person_says_has_arrived_is_accepted_and_never_sent_again(erp_database: str) -> None:
    async with scene(erp_database) as at:
        message = await at.unclear("text")
        answers = await asyncio.gather(*(one.post(f"/messages/{message}/arrived") for one in at.people))
        assert sorted(answer.status for answer in answers) == [303, 409]
        await at.accepted("text")
        at.answers.set()
        await at.world.settled()
        row = await at.world.one("SELECT state, reason FROM listener.messages")
        assert (row["state"], "Lan" in row["reason"]) == ("accepted", True)
        audit = await at.world.rows("SELECT count FROM listener.audit WHERE verb = 'arrived' ORDER BY count")
        assert [entry["count"] for entry in audit] == [0, 1]
        assert at.requests("text") == 1


async def test_what_was_discarded_and_arrived_after_all_is_shown(erp_database: str) -> None:
    async with scene(erp_database) as at:
        message = await at.unclear("text")
        cancelled = await verb(at.world.environment(), "cancel", message, "--reason", "too late now")
        assert cancelled.code == 0
        row = await at.world.one("SELECT state, reason FROM listener.messages")
        assert row["state"] == "cancelled"
        assert "perhaps sent before" in row["reason"]
        # It cannot be had again by mistake.
        assert (await verb(at.world.environment(), "retry", message)).code == 1
        at.answers.set()
        await at.accepted("text")
        row = await at.world.one("SELECT reason FROM listener.messages")
        assert row["reason"].startswith("sent after all")
        assert at.requests("text") == 1

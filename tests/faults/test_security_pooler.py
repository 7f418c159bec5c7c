"""A pooler between listener and the database: in transaction mode nothing that rests on a session holds."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.pooler import PROGRAM, pooler
from tests.support.verbs import verb
from tests.support.world import World, open_world

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine")


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


async def test_transaction_mode_is_refused_and_its_connections_left_as_they_were(world: World) -> None:
    with pooler(world.settings.database_url, "transaction") as through:
        replica = await world.replica(wait=False, LISTENER_DATABASE_URL=through)
        assert await replica.ended() == 1
        assert "pool_mode=session" in replica.log.read_text()
        for words in (("db", "verify"), ("db", "install"), ("check", "--db")):
            said = await verb({**world.environment(), "LISTENER_DATABASE_URL": through}, *words)
            assert said.code == 1 and "pool_mode=session" in said.err, (words, said)
        async with await psycopg.AsyncConnection.connect(through, autocommit=True) as other:
            for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                assert await (await other.execute(f"SHOW {setting}".encode())).fetchone() == ("0",)


async def test_session_mode_works_doorbell_and_all(world: World) -> None:
    with pooler(world.settings.database_url, "session") as through:
        replica = await world.replica(LISTENER_DATABASE_URL=through)
        await world.note("t", "one")
        await world.settled()
        await world.until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'LISTEN listener'")
        assert await world.states() == {"one": "accepted"}
        assert await replica.stop() == 0

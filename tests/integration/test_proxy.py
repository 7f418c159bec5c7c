"""The bench's own proxy does what the fault cases rely on."""

import asyncio

import psycopg
import pytest

from tests.support.proxy import COMMITTED, Direction, Mode, Proxy


async def test_a_database_is_reached_through_it(database: str) -> None:
    async with Proxy.to_database(database) as proxy, await psycopg.AsyncConnection.connect(proxy.dsn) as conn:
        assert await (await conn.execute("SELECT 41 + 1")).fetchone() == (42,)


async def test_a_commit_whose_answer_is_lost_is_committed(database: str) -> None:
    async with Proxy.to_database(database) as proxy:
        lost = proxy.lose_answer(COMMITTED, of="the writer")
        conn = await psycopg.AsyncConnection.connect(proxy.dsn, application_name="the writer")
        await conn.execute("CREATE TABLE seen AS SELECT 1 AS n")
        with pytest.raises(psycopg.OperationalError):
            await conn.commit()
        await lost.wait()
        await conn.close()
        async with await psycopg.AsyncConnection.connect(database) as direct:
            assert await (await direct.execute("SELECT n FROM seen")).fetchone() == (1,)


async def test_held_answers_come_when_it_passes_again(database: str) -> None:
    async with Proxy.to_database(database) as proxy, await psycopg.AsyncConnection.connect(proxy.dsn) as conn:
        proxy.switch(Mode.HOLD, Direction.DOWN)
        asked = asyncio.create_task(conn.execute("SELECT 1"))
        await asyncio.wait([asked], timeout=0.1)
        assert not asked.done()
        proxy.switch(Mode.PASS)
        await asyncio.wait_for(asked, 5)


@pytest.mark.parametrize("mode", [Mode.RESET, Mode.CLOSE])
async def test_the_next_bytes_end_the_connection(database: str, mode: Mode) -> None:
    async with Proxy.to_database(database) as proxy:
        conn = await psycopg.AsyncConnection.connect(proxy.dsn)
        proxy.switch(mode, Direction.DOWN)
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT 1")
        await conn.close()


async def test_refusing_and_swapped_targets(database: str, erp_database: str) -> None:
    async with Proxy.to_database(database) as proxy:
        proxy.refusing = True
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(proxy.dsn)
        proxy.refusing = False
        proxy.target = ("127.0.0.1", 1)
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(proxy.dsn)

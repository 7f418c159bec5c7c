"""Links: connections that are made when needed and do not outstay it."""

import asyncio
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from listener.database import Link
from listener.settings import Settings, read_settings
from tests.support.world import PATIENCE


async def pid(link: Link) -> int:
    async with link.use() as conn:
        return conn.info.backend_pid


async def test_a_link_that_rests_closes_its_connection_and_makes_another_when_needed(database: str) -> None:
    settings = Settings(database_url=database)
    watcher, link = Link(settings, "watcher"), Link(settings, "resting", None, 0.05)
    try:
        first = await pid(link)
        async with asyncio.timeout(PATIENCE), watcher.use(PATIENCE) as conn:
            while (await conn.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [first])).rowcount:
                await asyncio.sleep(0.01)
        assert await pid(link) != first
    finally:
        await link.close()
        await watcher.close()


async def test_a_new_password_in_its_file_needs_no_restart(database: str, tmp_path: Path) -> None:
    """Two roles stand for two passwords: this server trusts whoever comes by its socket."""
    file = tmp_path / "url"
    file.write_text(database)
    settings = read_settings({"LISTENER_DATABASE_URL_FILE": str(file)})
    link = Link(settings, "rotated")
    try:
        async with link.use() as conn:
            await conn.execute("DROP ROLE IF EXISTS rotated")
            await conn.execute("CREATE ROLE rotated LOGIN")
        file.write_text(make_conninfo(database, user="rotated") + "\n")
        await link.close()
        async with link.use() as conn:
            assert conn.info.user == "rotated"
    finally:
        await link.close()
        with psycopg.connect(database, autocommit=True) as owner:
            owner.execute("DROP ROLE IF EXISTS rotated")


async def test_a_link_in_use_does_not_rest(database: str) -> None:
    link = Link(Settings(database_url=database), "resting", None, 0.05)
    try:
        first = await pid(link)
        async with link.use() as conn:
            await conn.execute("SELECT pg_sleep(0.2)")
            assert conn.info.backend_pid == first
    finally:
        await link.close()

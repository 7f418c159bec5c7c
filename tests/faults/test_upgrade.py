"""A newer version beside the old one: the schema is migrated under replicas at work and an ERP that writes."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import psycopg
import pytest

from listener import migrations
from listener.database import connect
from listener.errors import ListenerError
from listener.migrations import Migration
from tests.faults.bench import open_bench
from tests.support.world import World, open_world

ROOT = Path(__file__).parents[2]
# What later versions do: columns for what is there, values for what waits, and the outbox by itself.
LATER = {
    "9001_outbox.sql": "ALTER TABLE listener.outbox ADD upgrade_mark integer;",
    "9002_messages.sql": """
ALTER TABLE listener.message ADD upgrade_mark integer;
ALTER TABLE listener.attempt ADD upgrade_mark integer;
ALTER TABLE listener.account ADD upgrade_mark integer NOT NULL DEFAULT 1;
CREATE TABLE listener.upgrade_waited AS SELECT id, state FROM listener.message WHERE state = 'waiting';
UPDATE listener.message SET upgrade_mark = 1 WHERE state = 'waiting';
""",
}


def program(folder: Path, *, later: bool) -> Path:
    """A copy of this program in `folder`, as it is or as a later version."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "listener", folder / "listener", ignore=ignore)
    shutil.copytree(ROOT / "sql", folder / "sql", ignore=ignore)
    if later:
        for name, text in LATER.items():
            (folder / "sql" / "migrations" / name).write_text(text)
        (folder / "listener" / "__init__.py").write_text('__version__ = "99.0"\n')
    return folder


def running(folder: Path) -> dict[str, str]:
    """The environment in which `listener` is the copy in `folder`."""
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


async def install(world: World, folder: Path) -> str:
    """`listener db install` of the copy in `folder`; what it said. Raises AssertionError when it failed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from listener.cli import main; main()", "db", "install"),
        env={**os.environ, **world.environment(), **running(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_replicas_give_way_to_a_newer_version_and_nothing_is_lost_or_sent_twice(
    erp_database: str, tmp_path: Path
) -> None:
    old, new = program(tmp_path / "old", later=False), program(tmp_path / "new", later=True)
    async with open_bench(erp_database, keys=24, latency=0.3) as bench:
        world = bench.world
        outdated = [await world.replica(**running(old)) for _ in range(2)]
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.erp.run(10, stopping))
            await bench.erp.write_each_key()
            await world.gateway.wait_for(8)
            said = await install(world, new)
            assert "migration 9001_outbox" in said
            assert "migration 9002_messages" in said
            assert (await world.one("SELECT count(*) AS n FROM listener.upgrade_waited"))["n"] > 0
            # The first of the new beside the last of the old, which give way by themselves and say why.
            await world.replica(**running(new))
            for replica in outdated:
                assert await replica.ended() == 1
                # named is the newest that was there when it looked
                assert re.search(r"it has migration 900[12]_\w+\. Update listener\.", replica.log.read_text())
            # A supervisor that starts the old program again harms nobody.
            assert await (await world.replica(wait=False, **running(old))).ended() == 1
            await world.replica(**running(new))
            await world.gateway.wait_for(len(world.arrived()) + 8)
            stopping.set()
        found = await bench.verdict()
        assert {message.state for message in found.messages} == {"accepted"}
        assert world.logs().count('"database_is_newer"') == 2
        assert "task_died" not in world.logs()


async def test_a_migration_waits_for_the_erp_and_the_erp_never_for_it(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = Migration(number=9001, name="9001_outbox", text=LATER["9001_outbox.sql"])
    async with open_world(erp_database) as world, await connect(world.settings, "db") as conn:
        known = migrations.migrations()
        monkeypatch.setattr(migrations, "migrations", lambda: (*known, later))
        async with await psycopg.AsyncConnection.connect(erp_database) as erp:
            # An ERP's transaction that has been captured and is still open holds the outbox.
            await erp.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('a', 'long', '0980000000')")
            monkeypatch.setattr(migrations, "_TRIES", 5)
            migrating = asyncio.create_task(migrations.migrate(conn))
            written = 0
            while not migrating.done():
                written += 1
                await world.note("b", f"short {written}")
            with pytest.raises(ListenerError, match="migration 9001_outbox: its tables are locked by others"):
                await migrating
            assert (await world.one("SELECT count(*) AS n FROM listener.outbox"))["n"] == written
            assert (await world.one("SELECT is_called FROM listener.capture_failures"))["is_called"] is False
            await erp.commit()
        assert [m.name for m in await migrations.migrate(conn)] == ["9001_outbox"]
        assert await migrations.pending(conn) == []


async def test_rules_that_only_a_newer_version_can_read_leave_the_rest_of_the_old_at_work(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        replica = await world.replica()
        await world.note("a", "first")
        await world.settled()
        await world.db.execute(
            """WITH newer AS (INSERT INTO listener.rules (sha256, source)
                                   VALUES ('0', 'version: 1' || chr(10) || 'word_of_2030: x') RETURNING version)
               UPDATE listener.fleet SET rules_version = (SELECT version FROM newer)"""
        )
        await replica.said("rules_not_polled")
        # It must not match by other rules than the fleet's; the change is kept for those who can read them.
        await world.note("a", "second")
        await replica.said("match_failed")
        assert world.arrived() == ["first"]
        assert replica.process.returncode is None
        await world.db.execute("UPDATE listener.fleet SET rules_version = 1")
        await world.settled()
        assert world.arrived() == ["first", "second"]

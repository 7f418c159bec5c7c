"""`listener run` under a supervisor: what it tells the service manager, and what `healthcheck` says."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from listener.simulator.gateway import Answer, Delay, Fault, Port
from listener.web import health as health_module
from tests.support import unit
from tests.support.manager import open_manager
from tests.support.verbs import verb
from tests.support.world import Replica, open_world, rules_text

# seconds; the matcher comes round once a second when idle
WATCHDOG = 4.0


async def test_the_unit_starts_tells_reloads_and_stops_a_real_daemon(erp_database: str) -> None:
    """What `deploy/listener.service` says is done by hand, and its credentials are all that the daemon gets."""
    async with open_world(erp_database) as world, open_manager(world.folder) as manager:
        (world.folder / "database-url").write_text(erp_database)
        (world.folder / "caresoft-token").write_text(world.gateway.state.settings.token)
        (world.folder / "admin-token").write_text("made-up-token")
        rules = rules_text().replace("token_file: TOKEN_FILE", 'token: "${CARESOFT_TOKEN}"')
        world.use_rules(rules)
        given = {
            **unit.environment(world.folder),
            "LISTENER_RULES": str(world.settings.rules),
            "LISTENER_DATABASE_URL": "",
        }
        assert unit.settings()["Type"] == ["notify"]
        (start,) = unit.settings()["ExecStart"]
        assert start.endswith("/listener run")

        replica = await world.replica(**given, **manager.environment(WATCHDOG))
        heard = await manager.hears(READY="1", STATUS="rules version 1, mode live")
        assert heard == 1, manager.said
        alive = await manager.hears(heard, WATCHDOG="1", STATUS="rules version 1")
        await world.note("topic", "note")
        await world.settled()
        assert world.arrived() == ["note"]

        world.use_rules(rules.replace("max_parts: 4", "max_parts: 3"))
        asked_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        await reload(replica)
        reloading = await manager.hears(alive, RELOADING="1")
        assert int(manager.said[reloading - 1]["MONOTONIC_USEC"]) >= asked_at
        loaded = await manager.hears(reloading, READY="1")
        await manager.hears(loaded, WATCHDOG="1", STATUS="rules version 2")

        # Refused rules end a reload too.
        world.use_rules("version: 1\n")
        await reload(replica)
        await manager.hears(await manager.hears(loaded, RELOADING="1"), READY="1")

        assert await replica.stop() == 0, replica.log.read_text()
        assert manager.said[-1]["STOPPING"] == "1"


async def reload(replica: Replica) -> None:
    """The unit's ExecReload."""
    (command,) = unit.settings()["ExecReload"]
    process = await asyncio.create_subprocess_shell(command, env={"MAINPID": str(replica.pid)})
    assert await process.wait() == 0


async def test_asked_to_reload_while_it_starts_the_daemon_goes_on(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "listener", "run", "--rules", str(tmp_path / "none.yaml")),
        env={**os.environ, "LISTENER_DATABASE_URL": f"host={tmp_path}"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        await process.stderr.readuntil(b"listener.errors\n")
        process.send_signal(signal.SIGHUP)
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 4
    assert said.endswith(b"No such file or directory\n"), "the words of a database that is not there"


async def test_a_manager_that_is_gone_is_no_reason_to_fail(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        replica = await world.replica(NOTIFY_SOCKET=str(world.folder / "nobody"), WATCHDOG_USEC="400000")
        await world.note("topic", "note")
        await world.settled()
        assert await replica.stop() == 0, replica.log.read_text()


async def test_once_without_its_database_ends_as_every_verb_does(erp_database: str) -> None:
    """Out of reach is exit code 4, also where it is a task that finds it out."""
    async with open_world(erp_database, http_timeout=60.0) as world:
        world.gateway.add_fault(Fault(action=Delay(seconds=3600.0)))
        await world.note("topic", "note")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from listener.cli import main; main()", "run", "--once"),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **world.environment()},
        )
        await world.until("SELECT count(*) = 1 FROM listener.message WHERE state = 'sending'")
        # It asks again and again whether anything is due; lost between two questions, a connection is only made anew.
        ending = asyncio.create_task(process.communicate())
        while not ending.done():
            await world.db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'listener settle'"
            )
            await asyncio.wait([ending], timeout=0.02)
        _, said = await ending
        assert process.returncode == 4, said.decode()
        # the second when it was about to connect
        told = ("the connection to the database was lost", "the database is out of reach: ")
        # Not always the last line: the log has a thread of its own.
        assert any(line.startswith(told) for line in said.decode().splitlines()), said.decode()


async def test_healthcheck_exits_0_while_every_part_moves_and_else_says_which_does_not(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(erp_database) as world, world.service() as service:
        address = str(service.address).removeprefix("http://")
        environment = {**world.environment(), "LISTENER_HTTP": address}
        well = await verb(environment, "healthcheck")
        assert (well.code, well.out) == (0, "well: every part moves\n")
        # A container listens everywhere.
        anywhere = {**environment, "LISTENER_HTTP": address.replace("127.0.0.1", "0.0.0.0")}
        assert (await verb(anywhere, "healthcheck")).code == 0

        monkeypatch.setattr(health_module, "STALE", -1.0)
        ill = await verb(environment, "healthcheck")
        assert ill.code == 1
        assert "match has not moved for 0 s" in ill.err
    gone = await verb(environment, "healthcheck")
    assert gone.code == 1
    assert gone.err.startswith(f"nobody answers at {address}")


async def test_healthcheck_is_not_taken_in_by_somebody_else(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        gateway = world.gateway.url.removeprefix("http://")
        said = await verb({**world.environment(), "LISTENER_HTTP": gateway}, "healthcheck")
        assert said.code == 1
        assert said.err == f"something else than listener answers at {gateway}\n"


@pytest.mark.parametrize(
    ("status", "code", "words"), [(None, 4, "CareSoft is out of reach"), (401, 1, "their account is paused")]
)
async def test_run_once_says_what_it_could_not_send(
    erp_database: str, status: int | None, code: int, words: str
) -> None:
    async with open_world(erp_database) as world:
        if status is None:
            world.gateway.refuse(Port.PRIMARY)
        else:
            world.gateway.add_fault(Fault(action=Answer(status=status)))
        await world.note("topic", "note")
        environment = {**os.environ, **world.environment()}
        once = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "listener", "run", "--once", env=environment, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, said = await once.communicate()
        assert once.returncode == code
        assert "messages of 1 thread are due" in said.decode()
        assert words in said.decode()
        assert await world.states() == {"note": "waiting"}

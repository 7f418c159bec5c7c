"""`/healthz` and `/readyz`: true while every part moves, honest when one does not; and no daemon is ever half alive."""

import asyncio
import socket
import time

import aiohttp
import pytest

from listener.database import connect
from listener.errors import OutOfReachError, UsageError
from listener.settings import Settings, read_settings
from listener.web import health as health_module
from listener.web.health import STALE, Health
from tests.support.proxy import Connection as ProxyConnection
from tests.support.proxy import Direction, Mode, Proxy
from tests.support.world import PHONE, World, open_world

PARTS = {"match", "upkeep", "reconcile", "rules", "deliver main", "settle"}


async def ask(address: str | None, path: str) -> tuple[int, dict[str, object], str]:
    assert address is not None
    async with aiohttp.ClientSession() as session, session.get(f"{address}{path}") as response:
        return response.status, await response.json(), await response.text()


async def test_a_daemon_at_work_is_healthy_and_ready_and_says_nothing_personal(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        async with world.service() as service:
            await world.settled()
            status, report, text = await ask(service.address, "/healthz")
            assert (status, report["ok"], report["reasons"]) == (200, True, [])
            assert set(report["moved_s"]) == PARTS  # type: ignore[call-overload]
            assert PHONE not in text
            assert (await ask(service.address, "/readyz"))[0] == 200
            service.stopping.set()
            status, report, _ = await ask(service.address, "/readyz")
            assert (status, report["reasons"]) == (503, ["not started yet, or stopping"])


@pytest.mark.faults
async def test_a_database_that_is_gone_shows_within_the_minute(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "STALE", 1.5)
    async with (
        open_world(erp_database) as world,
        Proxy.to_database(erp_database) as proxy,
        world.service(database_url=proxy.dsn) as service,
    ):
        assert (await ask(service.address, "/healthz"))[0] == 200
        proxy.switch(Mode.RESET)
        reasons = ""
        async with asyncio.timeout(20):
            while not all(f"{part} has not moved" in reasons for part in ("match", "upkeep", "reconcile", "rules")):
                status, report, _ = await ask(service.address, "/healthz")
                reasons = " ".join(map(str, report["reasons"]))  # type: ignore[call-overload]
                assert (status == 503) == bool(reasons)
                await asyncio.sleep(0.05)
        proxy.switch(Mode.PASS)
        async with asyncio.timeout(20):
            while (await ask(service.address, "/healthz"))[0] != 200:
                await asyncio.sleep(0.05)


async def test_an_account_whose_token_cannot_be_read_stands_still(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "STALE", 2.5)
    async with open_world(erp_database) as world, world.service() as service:
        token = world.token_file.read_text()
        world.token_file.unlink()
        async with asyncio.timeout(20):
            while (answer := await ask(service.address, "/healthz"))[0] != 503:
                await asyncio.sleep(0.05)
        assert "deliver main has not moved" in answer[2]
        world.token_file.write_text(token)
        await world.note("a", "one")
        await world.settled()
        assert (await ask(service.address, "/healthz"))[0] == 200


def test_each_part_that_stands_still_is_named() -> None:
    now = time.monotonic()
    health = Health(
        moved=lambda: {"match": now, "settle": now - STALE - 5}, notes=lambda: {"rules": 3}, ready=lambda: True
    )
    report = health.report()
    assert report["reasons"] == ["settle has not moved for 25 s"]
    assert (report["ok"], report["rules"]) == (False, 3)
    assert health.readiness() == {"ok": False, "reasons": ["settle has not moved for 25 s"]}


async def test_a_dead_task_ends_the_process(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        replica = await world.replica()
        # Upkeep finds a schema that it cannot work with: nothing that waiting would mend.
        await world.db.execute("ALTER TABLE listener.ticket_save RENAME TO gone")
        began = time.monotonic()
        assert await replica.ended(10) not in (0, None)
        assert time.monotonic() - began < 5 + 1.5


def taken() -> tuple[socket.socket, str]:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    return holder, f"127.0.0.1:{holder.getsockname()[1]}"


async def start(world: World, **settings: object) -> str | None:
    async with world.service(**settings) as service:
        return service.address


async def test_a_chosen_address_that_is_taken_is_a_fault(erp_database: str) -> None:
    holder, address = taken()
    with holder:
        async with open_world(erp_database) as world:
            with pytest.raises(UsageError, match=f"LISTENER_HTTP: {address} is taken"):
                await start(world, http=address)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "999.1.1.1:80"])
async def test_an_address_of_another_machine_is_a_fault(erp_database: str, address: str) -> None:
    async with open_world(erp_database) as world:
        with pytest.raises(UsageError, match=f"LISTENER_HTTP: {address} is no address of this machine"):
            await start(world, http=address, admin_token="secret")


async def test_the_default_address_is_done_without_when_another_replica_has_it(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, address = taken()
    monkeypatch.setattr("listener.web.server.DEFAULT_HTTP", address)
    async with open_world(erp_database) as world:
        with holder:
            assert await start(world, http="") is None
        assert await start(world, http="") == f"http://{address}"


async def test_an_address_that_others_can_reach_needs_a_token(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        with pytest.raises(UsageError, match="LISTENER_ADMIN_TOKEN"):
            await start(world, http="0.0.0.0:0")
        assert await start(world, http="0.0.0.0:0", admin_token="secret") is not None


@pytest.mark.parametrize("text", ["8080", "127.0.0.1", ":8080", "127.0.0.1:http", "127.0.0.1:70000", "[::1]"])
def test_an_address_is_written_as_host_and_port(text: str) -> None:
    with pytest.raises(UsageError, match="host:port"):
        read_settings({"LISTENER_HTTP": text})


def test_the_token_of_the_page_may_come_from_a_file_and_is_never_shown(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "token"
    file.write_text("canary-token\n")
    settings = read_settings({"LISTENER_ADMIN_TOKEN_FILE": str(file), "LISTENER_HTTP": "[::1]:8080"})
    assert settings.admin_token == "canary-token"
    assert "canary" not in repr(settings)


async def test_a_connection_that_breaks_while_it_is_set_up_is_one_that_cannot_be_made(database: str) -> None:
    def look(connection: ProxyConnection, _direction: Direction, data: bytes) -> None:
        if b"set_config" in data:
            connection.end(reset=True)

    async with Proxy.to_database(database) as proxy:
        proxy.watch(look)
        with pytest.raises(OutOfReachError, match="out of reach"):
            await connect(Settings(database_url=proxy.dsn), "test")

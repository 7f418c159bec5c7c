"""A database server that proves who it is, and what happens where it does not (F81)."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from listener.database import connect
from listener.errors import OutOfReachError
from listener.route import unverified
from listener.settings import Settings
from listener.simulator.postgres import Server
from tests.support.proxy import Proxy
from tests.support.raw_server import TLS
from tests.support.roles import DAEMON, RULES, install_roles
from tests.support.world import open_world


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    """Only passwords by SCRAM, only over TLS, with the certificate for `localhost`."""
    with Server(tcp=True, settings={"log_connections": "on", "password_encryption": "scram-sha-256"}) as server:
        use_certificate(server, "localhost")
        yield server


def use_certificate(server: Server, name: str | None) -> None:
    """The server shows this certificate of tests/support/tls from now on; None ends TLS."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        data = Path(conn.execute("SHOW data_directory").fetchone()[0])  # type: ignore[index]
        owner = data.stat()
        if name is not None:
            target = data / "tls.pem"
            shutil.copyfile(TLS / f"{name}.pem", target)
            target.chmod(0o600)
            os.chown(target, owner.st_uid, owner.st_gid)
        for key, value in (("ssl_cert_file", "tls.pem"), ("ssl_key_file", "tls.pem"), ("ssl", "on" if name else "off")):
            conn.execute(f"ALTER SYSTEM SET {key} = '{value}'".encode())
        conn.execute("SELECT pg_reload_conf()")
    until(lambda: _speaks_tls(server) is (name is not None))


def _speaks_tls(server: Server) -> bool:
    with psycopg.connect(server.dsn(), sslmode="prefer") as conn:
        return conn.pgconn.ssl_in_use


def until(holds: Callable[[], bool]) -> None:
    """Waits for a condition of another process."""
    end = monotonic() + 20
    while not holds():
        assert monotonic() < end
        sleep(0.02)


def verified(dsn: str, **words: str) -> str:
    """The recommended way: by name, with the authority that signed the certificate."""
    options = {"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full"}
    return make_conninfo(dsn, **{**options, "sslrootcert": str(TLS / "localhost.pem"), **words})


def logins(server: Server) -> int:
    return server.log.count("connection authorized: user=victim") + server.log.count("authentication failed")


async def test_the_whole_way_over_verified_tls_with_scram_alone(tls_server: Server) -> None:
    dsn = await asyncio.to_thread(tls_server.create_database, "erp")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.customers (id int PRIMARY KEY, full_name text, phone text)")
        conn.execute("INSERT INTO public.customers VALUES (7, 'A', '0980000000')")
    async with open_world(dsn, rules=RULES) as world:
        await install_roles(world)
        await world.db.execute(f"ALTER ROLE {DAEMON} PASSWORD 'geheim'".encode())
        through = verified(dsn, user=DAEMON, password="geheim", channel_binding="require", require_auth="scram-sha-256")
        world.settings = replace(world.settings, database_url=through)
        replica = await world.replica()
        await world.note("t", "one")
        await world.settled()
        assert list((await world.states()).values()) == ["accepted"]
        used = await world.rows(
            """SELECT DISTINCT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                                    WHERE a.usename = %s""",
            DAEMON,
        )
        assert used == [{"ssl": True}]
        assert await replica.stop() == 0
        assert "database_not_verified" not in world.logs() and "geheim" not in world.logs()


@pytest.mark.parametrize("certificate", ["otherhost", "expired", None])
async def test_nobody_logs_in_where_the_server_is_not_proved(tls_server: Server, certificate: str | None) -> None:
    """Signed by nobody we know (as `otherhost`), too old, or no TLS at all."""
    await asyncio.to_thread(use_certificate, tls_server, certificate)
    try:
        before = logins(tls_server)
        for root in ("localhost", certificate or "localhost"):
            dsn = verified(tls_server.dsn(), user="victim", sslrootcert=str(TLS / f"{root}.pem"))
            async with Proxy(("127.0.0.1", int(conninfo_to_dict(dsn)["port"]))) as proxy:
                with pytest.raises(OutOfReachError) as refused:
                    await connect(_settings(make_conninfo(dsn, port=proxy.port)), "test")
                assert "out of reach" in str(refused.value) and "geheim" not in str(refused.value)
                assert proxy.accepted >= 1
        assert logins(tls_server) == before
    finally:
        await asyncio.to_thread(use_certificate, tls_server, "localhost")


async def test_who_strips_tls_on_the_way_learns_nothing(tls_server: Server) -> None:
    heard: list[bytes] = []

    async def strip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # "no TLS here", whatever the server behind would say; then whatever comes in the clear is heard.
        heard.append(await reader.read(8))
        writer.write(b"N")
        heard.append(await reader.read(1000))
        writer.close()

    listening = await asyncio.start_server(strip, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        dsn = verified(tls_server.dsn(), user="victim", port=str(port))
        for mode in ("verify-full", "verify-ca", "require"):
            with pytest.raises(OutOfReachError):
                await connect(_settings(make_conninfo(dsn, sslmode=mode)), "test")
        assert b"victim" not in b"".join(heard)
        with pytest.raises(OutOfReachError):
            await connect(_settings(make_conninfo(dsn, sslmode="prefer")), "test")
        assert b"victim" in b"".join(heard), "that is what the weaker mode gives away"


async def test_a_weaker_mode_is_warned_of_at_the_start(tls_server: Server) -> None:
    dsn = await asyncio.to_thread(tls_server.create_database, "weak")
    named = make_conninfo(dsn, host="db.example", hostaddr="127.0.0.1")
    async with open_world(dsn) as world:
        replica = await world.replica(LISTENER_DATABASE_URL=named)
        await replica.said("database_not_verified")
        log = replica.log.read_text()
        assert "sslmode=prefer to db.example: encrypted" in log and "sslmode=verify-full" in log


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "db.example", "hostaddr": "127.0.0.1", "sslmode": "disable"}, "not encrypted"),
        ({"host": "db.example", "hostaddr": "127.0.0.1", "sslmode": "require"}, "with whoever answers"),
        ({"host": "127.0.0.1", "sslmode": "prefer"}, None),
        ({"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full"}, None),
    ],
)
async def test_how_far_a_connection_can_be_trusted(
    tls_server: Server, options: dict[str, str], told: str | None
) -> None:
    dsn = make_conninfo(tls_server.dsn(), sslrootcert=str(TLS / "localhost.pem"), **options)
    async with await connect(Settings(database_url=dsn), "test") as conn:
        doubt = unverified(conn)
        assert (doubt is None) if told is None else (doubt is not None and told in doubt)


def _settings(dsn: str) -> Settings:
    return Settings(database_url=make_conninfo(dsn, password="geheim"))

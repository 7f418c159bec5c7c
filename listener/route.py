"""The way to the database: is it the server that it says it is, and is the connection ours alone?

A pooler that gives each transaction another server connection breaks all that rests on a session: LISTEN hears nothing,
settings such as read-only leak to whoever comes next, prepared statements are not found. It is refused.
"""

import ipaddress
from typing import cast

from listener.database import Connection, connect
from listener.errors import ListenerError
from listener.settings import Settings

VERIFIED = "sslmode=verify-full and sslrootcert=FILE in LISTENER_DATABASE_URL"
# times to look whether a connection is lent to others meanwhile
_LOOKS = 3
_POOLED = (
    "the database is reached through a pooler that shares connections between transactions (pool_mode=transaction): "
    "notifications, session settings and prepared statements do not survive that. Connect to PostgreSQL directly, or "
    "give listener a pool with pool_mode=session"
)


def unverified(conn: Connection) -> str | None:
    """Why the server at the other end may be another one than it should, in words; None when that cannot be.

    A Unix socket and this machine's own address need no proof. The modes:
    https://www.postgresql.org/docs/current/libpq-ssl.html
    """
    options = {option.keyword: option.val for option in conn.pgconn.info}
    mode = (options[b"sslmode"] or b"prefer").decode()
    host = conn.info.host
    if mode == "verify-full" or _is_here(host):
        return None
    lacks = {
        "verify-ca": "any host with a certificate of the same authority is taken for it",
        "require": "encrypted, but with whoever answers",
    }.get(mode, "encrypted" if conn.pgconn.ssl_in_use else "not encrypted")
    more = "" if mode in ("verify-ca", "require") else ", and whoever is between may switch that off"
    return f"sslmode={mode} to {host}: {lacks}{more if conn.pgconn.ssl_in_use else ''}"


def _is_here(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def refuse_shared(conn: Connection, settings: Settings) -> None:
    """Raises `ListenerError` when a pooler lends the server connection of `conn` to others between its transactions.

    Where the process that the server named at the start is the one that answers, no pooler is between.
    """
    mine = await _process(conn)
    if mine == conn.info.backend_pid:
        return
    for _ in range(_LOOKS):
        async with await connect(settings, "route") as other, other.transaction():
            # A transaction now holds this one: if it was ours, we are given another.
            shared = await _process(other) == mine or await _process(conn) != mine
            if shared:
                # What connecting has set must not stay with whoever is given it next.
                await other.execute("RESET ALL", prepare=False)
        if shared:
            raise ListenerError(_POOLED)


async def _process(conn: Connection) -> int:
    cursor = await conn.execute("SELECT pg_backend_pid() AS pid", prepare=False)
    return cast(int, (await cursor.fetchone() or {})["pid"])

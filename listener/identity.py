"""Whether this is the database that it was: after a restore or a fail-over it may have forgotten what was sent.

All that bounds duplicates rests on acknowledged commits that stay. Where they may have been lost nothing is sent until
a person says so: everything is paused, and `listener resume` confirms.
"""

import structlog

from listener import pauses
from listener.database import Connection
from listener.pauses import Scope, Target
from listener.queries import load

log = structlog.get_logger()
SQL = load("identity")


async def check(conn: Connection) -> str | None:
    """Why nothing may be sent from this database yet, in a sentence; None if it is the one that it was.

    A fail-over to a standby that never lags loses nothing and is no reason. Locks what is known for this transaction.
    """
    here = await (await conn.execute(SQL["here"], {})).fetchone()
    known = await (await conn.execute(SQL["known"], {})).fetchone()
    assert here is not None and known is not None
    if known["server"] is None:
        return None
    if here["server"] != known["server"]:
        return "this is another server than before: a backup that was restored, or a copy"
    if here["database"] != known["database"]:
        return "this is another database of the server than before: a dump that was restored, or a copy"
    if here["timeline"] != known["timeline"] and not known["synchronous"]:
        return "the server was failed over or restored, and may have lost its last commits"
    return None


async def confirm(conn: Connection) -> None:
    """From now on this is the database that we know."""
    here = await (await conn.execute(SQL["here"], {})).fetchone()
    await conn.execute(SQL["know"], here)


async def stop_if_another(conn: Connection) -> None:
    """Before anything is sent: pauses everything, for a person to resume, if this may have forgotten what was sent."""
    async with conn.transaction():
        if reason := await check(conn):
            log.error("another_database", reason=reason, effect="nothing is sent until `listener resume`")
            why = f"{reason}; find out what was sent since, then resume"
            await pauses.pause(conn, Target(scope=Scope.ALL), reason=why, until=None, by="listener")
        await confirm(conn)

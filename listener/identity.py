"""Whether this is the database that it was: after a restore or a fail-over it may have forgotten what was sent.

All that bounds duplicates rests on acknowledged commits that stay. Where they may have been lost nothing is sent until
a person says so: everything is paused, and `listener resume` confirms. Every connection by which permits are taken is
asked before the first one, so that a daemon that follows a fail-over is no exception.
"""

import structlog

from listener import pauses
from listener.database import Connection
from listener.pauses import Scope, Target
from listener.queries import load

log = structlog.get_logger()
SQL = load("identity")


class Guard:
    """Asks each new connection, and remembers for its process how far the server had come: a server that was put back
    to an earlier state of its own (a virtual machine's snapshot, a disk without fsync) knows nothing of it itself."""

    def __init__(self) -> None:
        self._durable = 0

    def saw(self, durable: int) -> None:
        """The server has written its log to the disk up to here, in bytes since its beginning."""
        self._durable = max(self._durable, durable)

    async def ask(self, conn: Connection) -> None:
        """Pauses everything, for a person to resume, if this database may have forgotten what was sent."""
        async with conn.transaction():
            if reason := await _reason(conn, self._durable):
                log.error("another_database", reason=reason, effect="nothing is sent until `listener resume`")
                why = f"{reason}; find out what was sent since, then resume"
                await pauses.pause(conn, Target(scope=Scope.ALL), reason=why, until=None, by="listener")
            here = await (await conn.execute(SQL["here"], {})).fetchone()
            assert here is not None
            await conn.execute(SQL["know"], here)
        # Asked anew of the next connection, and not of this server's past again.
        self._durable = here["durable"]


async def _reason(conn: Connection, durable: int) -> str | None:
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
    if here["timeline"] == known["timeline"] and here["written"] < durable:
        return "the server is back in an earlier state, and has lost commits that it had confirmed"
    return None

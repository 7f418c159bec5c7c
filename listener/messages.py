"""What the message, thread and attempt tables can be asked and told, on a given connection."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.rows import DictRow

from listener.database import Connection, dumps_exact, together
from listener.model import Lease, State
from listener.queries import load

SQL = load("messages")

# Spacing is a little wider than the rate asks, so that jitter on the way does not push one request too many into a
# sliding second; a slot that was missed by up to so many seconds is made up for, so that the rate is still kept.
SPACING = 1.03
SLACK = 0.015
# a message this many seconds old is late: with `recheck` its row is read again
LATE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look for work brought: permits, and in how many seconds to look again.

    `slot_in` is when the account may next send; `due_in` when something is next due (None: nothing waits). `durable` is
    how far the server's log is on its disk, in bytes.
    """

    leases: tuple[Lease, ...]
    slot_in: float
    due_in: float | None
    durable: int

    @property
    def due(self) -> bool:
        """Whether something may be sent now."""
        return self.slot_in <= 0 and self.due_in is not None and self.due_in <= 0


class Terms(TypedDict):
    """On which permits are taken: at most `want`; `rate` is per second, None for no limit; `deadline` in seconds.

    `token` names this very call: what it armed can be found again when the answer to its COMMIT is lost.
    """

    account: str
    token: int
    replica: UUID
    rate: float | None
    want: int
    deadline: float


def spacing(rate: float | None) -> float:
    """Seconds between two slots at `rate` per second; None is no limit."""
    return SPACING / rate if rate else 0.0


def _args(terms: Terms) -> dict[str, Any]:
    return {
        "account": terms["account"],
        "lease": terms["token"],
        "replica": terms["replica"],
        "want": terms["want"],
        "interval": spacing(terms["rate"]),
        "slack": SLACK,
        "probe": terms["deadline"] + 15,
        "deadline": terms["deadline"],
        "late": LATE,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    """Permits, and how far the server's log is on its disk once they are committed, in bytes (0 without any)."""

    leases: tuple[Lease, ...] = ()
    durable: int = 0


async def look(conn: Connection, **terms: Unpack[Terms]) -> Look:
    """As `lease`, but takes no permits: one statement for an account that has nothing to send."""
    row = await (await conn.execute(SQL["next_look"], _args(terms))).fetchone()
    return _look((), row, 0)


async def lease(conn: Connection, **terms: Unpack[Terms]) -> Look:
    """Takes permits, durably."""
    args = _args(terms)
    async with together(conn):
        await conn.execute(SQL["lock_account"], args)
        await conn.execute(SQL["claim"], args)
        await conn.execute(SQL["hush"], args)
        armed = await conn.execute(SQL["arm"], args)
        await conn.execute(SQL["unused_probe"], args)
        seen = await conn.execute(SQL["next_look"], args)
    permits = await armed_by(armed)
    return _look(permits.leases, await seen.fetchone(), permits.durable)


def _look(leases: tuple[Lease, ...], row: DictRow | None, durable: int) -> Look:
    """`row` is missing for an account that is not in the database yet."""
    if row is None:
        return Look(leases=leases, slot_in=0.0, due_in=None, durable=durable)
    return Look(leases=leases, slot_in=row["slot_in"], due_in=row["due_in"], durable=max(durable, row["durable"]))


async def insert_armed(
    conn: Connection, version: int, rows: Sequence[dict[str, Any]], changes: Sequence[int], **terms: Unpack[Terms]
) -> AsyncCursor[DictRow]:
    """Adds messages, one to a thread, together with their permits, and ends the changes (ids) that they come from; or
    does nothing, if they cannot go at once.

    What the cursor holds is for `armed_by`, once the pipeline that this goes through has ended. Raises IntegrityError
    when somebody came in between.
    """
    args = {**_args(terms), "version": version, "rows": to_json(rows), "ids": changes}
    return await conn.execute(SQL["insert_armed"], args)


async def armed_by(cursor: AsyncCursor[DictRow]) -> Armed:
    """What came of the statement `arm` or `insert_armed`, after its COMMIT."""
    rows = await cursor.fetchall()
    return Armed(
        leases=tuple(
            Lease(
                message_id=r["id"],
                permit=r["permits"],
                lease=r["lease"],
                leased_at=r["leased_at"],
                thread_id=r["thread_id"],
                account=r["account"],
                rule=r["rule"],
                phone=r["phone"],
                text=r["text"],
                ticket=r["ticket_sent"],
                recheck=r["recheck"],
                watch=r["watch"],
                key=r["key"],
            )
            for r in rows
        ),
        durable=max((r["written"] for r in rows), default=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """How many threads have something due now: that can be sent, and in accounts that are paused or not ours to use;
    of these, how many because the gateway cannot be reached."""

    sendable: int = 0
    stopped: int = 0
    unreachable: int = 0


async def due(conn: Connection, accounts: Collection[str]) -> Due:
    """What is due now; `accounts` are the names of those that are ours to use. Counts all of it."""
    row = await (await conn.execute(SQL["due"], {"accounts": list(accounts)})).fetchone()
    return Due(**row) if row else Due()


async def leased(conn: Connection, token: int) -> list[Lease]:
    """What one call of `lease` armed, as far as it is still open."""
    return await _leases(conn, "leased", {"lease": token})


async def ended_leases(conn: Connection) -> list[Lease]:
    """Permits whose holder did not say in time what became of them."""
    return await _leases(conn, "ended_leases", {})


async def _leases(conn: Connection, query: str, args: dict[str, Any]) -> list[Lease]:
    rows = await (await conn.execute(SQL[query], args)).fetchall()
    return [
        Lease(
            message_id=r["id"],
            permit=r["permits"],
            lease=r["lease"],
            leased_at=r["leased_at"],
            thread_id=r["thread_id"],
            account=r["account"],
        )
        for r in rows
    ]


async def lock_threads(
    conn: Connection, threads: Collection[tuple[str, str]], rows: Sequence[dict[str, Any]] = ()
) -> None:
    """Makes the threads (account, name) that are new and locks all, for the rest of the transaction.

    With `rows`, which are to be inserted next, new threads are in the queue already.
    """
    firsts = {(r["account"], r["thread"]): r for r in reversed(rows) if r["state"] is State.WAITING}
    queued = [firsts.get(place) for place in threads]
    due = [row["due_at"] if row is not None else None for row in queued]
    priorities = [row["priority"] if row is not None else None for row in queued]
    named = _by_name(threads)
    await conn.execute(SQL["make_threads"], {**named, "due": due, "priorities": priorities})
    await conn.execute(SQL["lock_threads_by_name"], named)


async def insert(conn: Connection, version: int, rows: Sequence[dict[str, Any]]) -> None:
    """Adds unfinished messages to threads that are locked."""
    await conn.execute(SQL["insert"], {"version": version, "rows": to_json(rows)})


async def wake_threads(conn: Connection, threads: Collection[tuple[str, str]]) -> None:
    """Puts locked threads (account, name) in the queue, or out of it, by what waits in them now."""
    await conn.execute(SQL["wake_threads_by_name"], _by_name(threads))


async def requeue(conn: Connection, threads: Sequence[int]) -> None:
    """As `wake_threads`, by id."""
    await conn.execute(SQL["requeue_threads"], {"threads": threads})


def _by_name(threads: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    return {"accounts": [account for account, _ in threads], "names": [name for _, name in threads]}


async def file(conn: Connection, version: int, rows: Sequence[dict[str, Any]]) -> None:
    """Adds messages that are finished already (rejected, shadow, suppressed, expired)."""
    await conn.execute(SQL["insert_finished"], {"version": version, "rows": to_json(rows)})


def to_json(rows: Iterable[dict[str, Any]]) -> str:
    """Rows for `json_to_recordset`."""
    return dumps_exact(list(rows))


async def spare(conn: Connection, threads: Sequence[int]) -> None:
    """Gives what waited too long in these locked threads the time back that were quiet hours, however many nights."""
    while await (await conn.execute(SQL["spare"], {"threads": threads})).fetchall():
        pass


async def expire(conn: Connection) -> None:
    """Ends messages that waited past their `expires`, and puts what comes after them in the queue."""
    async with together(conn):
        rows = await (await conn.execute(SQL["lock_expired"], {})).fetchall()
        if rows:
            args = {"threads": [row["id"] for row in rows]}
            await spare(conn, args["threads"])
            for name in ("expire", "expire_unsure", "requeue_threads"):
                await conn.execute(SQL[name], args)

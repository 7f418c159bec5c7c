"""What is looked at right before a message goes: whether its phone gets any in this daemon's mode; and with
`recheck: true` the row of a late message, which is read again: what is no longer true is dropped."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from listener import capture
from listener.database import LOST, REST, Connection, Link
from listener.errors import ListenerError, OutOfReachError
from listener.model import Lease, Mode, Stale, Unchecked
from listener.rulebook import Rulebook
from listener.rules.judging import gets_any
from listener.settings import Settings


class Recheck:
    """Compares what a message was made of with the row as it is now; on a read-only connection of its own."""

    def __init__(self, settings: Settings, book: Rulebook) -> None:
        self._book = book
        self._mode = settings.mode
        self._link = Link(
            settings,
            "recheck",
            None,
            REST,
            default_transaction_read_only="on",
            statement_timeout="2000",
            lock_timeout="2000",
        )
        self._version = 0
        self._queries: dict[str, sql.Composed] = {}

    async def close(self) -> None:
        await self._link.close()

    async def outdated(self, lease: Lease) -> Stale | Unchecked | None:
        """What keeps the message of `lease` from going; None when nothing does.

        A row that cannot be read (no right, no table, no such watch in the rules) says nothing about what stands in it:
        the message waits, until it expires, for somebody to mend that.
        """
        if self._mode is not Mode.LIVE and not self._is_meant(lease):
            return Unchecked(cause=f"mode {self._mode}: its phone gets nothing, so it waits")
        if lease.recheck is None:
            return None
        try:
            async with self._link.use(5.0) as conn:
                now = await self._row(conn, lease)
        except (*LOST, OutOfReachError):
            return Unchecked(cause="the row could not be read again")
        except psycopg.Error as error:
            return Unchecked(cause=f"the row could not be read again ({type(error).__name__})")
        except ListenerError as error:
            return Unchecked(cause=f"the row could not be read again ({error})")
        if now is None:
            return Stale(reason="recheck: the row is gone")
        changed = [column for column, value in lease.recheck.items() if now.get(column) != value]
        return Stale(reason=f"recheck: {', '.join(changed)} changed since") if changed else None

    def _is_meant(self, lease: Lease) -> bool:
        """What this daemon made is; but something may wait since a live one, or for a person's retry."""
        rule = self._book.current.rules.rules.get(lease.rule)
        return rule is not None and gets_any(rule, lease.phone, rule.mode.or_more_careful(self._mode))

    async def _row(self, conn: Connection, lease: Lease) -> Mapping[str, Any] | None:
        rules = self._book.current
        if rules.version != self._version:
            self._version, self._queries = rules.version, {}
        if lease.watch not in self._queries:
            watch = rules.watch(lease.watch)
            if watch is None or watch.table is None:
                raise ListenerError(f"the rules have no table for {lease.watch}")
            wanted = await capture.wanted(conn, lease.watch, watch, rules.used_columns(lease.watch))
            self._queries[lease.watch] = capture.current_row(wanted)
        found = await (await conn.execute(self._queries[lease.watch], {"key": lease.key})).fetchone()
        return found["row"] if found else None

"""Unclear messages whose ticket is known: the text is looked for among the ticket's comments.

A match proves that the message was accepted; no match proves nothing, so it stays unknown, is looked for a few more
times, and is then left to a person. (That CareSoft writes an SMS down as a comment is assumed, not documented.)
"""

import asyncio
import html
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import structlog

from listener import accounts
from listener.caresoft import CareSoft, Comment
from listener.database import LOST, Connection, Link
from listener.errors import ListenerError, OutOfReachError, describe
from listener.messages import spacing
from listener.model import Accepted, Lease, LockedOut, NotSent, Outcome, RateLimited, Unauthorized, Unreachable
from listener.pacing import Punctuality
from listener.queries import load
from listener.rules import Account
from listener.settling import Result, pause_for
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("reconcile")

ROUND = 1.0
# seconds until a message is looked for again, after each look that did not find it
PAUSES = (30.0, 120.0, 600.0, 3600.0)
# The zone of the gateway's times is not documented: Vietnam's or UTC, and its clock may differ from ours.
ZONES = timedelta(hours=8)
# seconds to try for a slot of a busy account
_SLOT_PATIENCE = 2.0
_TAG = re.compile(r"<[^<>]{0,200}>")


class Reconciler:
    """Every replica does it; what two would look for is looked for once. What is found goes to `give`."""

    def __init__(
        self,
        link: Link,
        rules_accounts: Callable[[], Mapping[str, Account]],
        gateway: CareSoft,
        give: Callable[[Result], None],
    ) -> None:
        self._accounts = rules_accounts
        self._gateway = gateway
        self._give = give
        self._link = link
        self._punctuality = Punctuality()
        self.moved_at = monotonic()

    async def run(self, stopping: asyncio.Event) -> None:
        """Looks for what is due, until `stopping`."""
        while not stopping.is_set():
            try:
                await self.round(stopping)
                self.moved_at = monotonic()
            except (*LOST, OutOfReachError) as error:
                log.warning("reconcile_failed", error=describe(error))
            await wait_for_any(stopping, seconds=ROUND)

    async def round(self, stopping: asyncio.Event) -> None:
        """One look for each account with something due."""
        async with self._link.use() as conn:
            due = [row["account"] for row in await (await conn.execute(SQL["due"], {})).fetchall()]
        for name in due:
            account = self._accounts().get(name)
            if account is not None and not stopping.is_set():
                await self._look(name, account)

    async def _look(self, name: str, account: Account) -> None:
        try:
            access = accounts.access(name, account)
        except ListenerError:
            return
        slot = await self._take(name, account)
        if slot is None:
            return
        row, began, asked_at = slot
        found = await self._gateway.comments(
            access, row["ticket_sent"], in_time=lambda: self._punctuality.in_time(monotonic() - asked_at)
        )
        async with self._link.use() as conn:
            if isinstance(found, NotSent):
                # Nobody looked; and only by trying again is it learned how late requests usually are.
                await conn.execute(SQL["not_looked"], {"id": row["id"], "lease": row["lease"]})
                return
            if not isinstance(found, tuple):
                await _refused(conn, name, row["lease"], began, found, accounts.token_print(access.token))
                return
            window = row["since"] - ZONES, row["until"] + ZONES
            args = {"id": row["id"], "ticket": row["ticket_sent"], "since": window[0], "until": window[1]}
            others = [r["text"] for r in await (await conn.execute(SQL["others"], args)).fetchall()]
        if is_written(row["text"], found, window, others):
            self._give(
                Result(
                    lease=Lease(
                        message_id=row["id"],
                        permit=row["permits"],
                        lease=row["lease"],
                        leased_at=row["leased_at"],
                        thread_id=row["thread_id"],
                        account=name,
                        ticket=row["ticket_sent"],
                    ),
                    outcome=Accepted(ticket=row["ticket_sent"], note="found on its ticket"),
                )
            )

    async def _take(self, name: str, account: Account) -> tuple[dict[str, Any], datetime, float] | None:
        """A message to look for, its slot on the database's clock, and when the slot was asked for on ours; None when
        there is no slot, or nothing any more."""
        args = {"account": name, "interval": spacing(account.rate.per_second), "pauses": list(PAUSES)}
        end = monotonic() + _SLOT_PATIENCE
        while True:
            asked_at = monotonic()
            async with self._link.use() as conn, conn.transaction():
                if slot := await (await conn.execute(SQL["slot"], args)).fetchone():
                    row = await (await conn.execute(SQL["take"], args)).fetchone()
                    return None if row is None else (row, slot["at"], asked_at)
            if monotonic() > end:
                return None
            await asyncio.sleep(0.02)


async def _refused(
    conn: Connection, name: str, lease: int, began: datetime, outcome: Outcome, token_print: str
) -> None:
    """A refusal that is about the account stops it as it would for an SMS; any other says nothing, such as a 403: not
    everybody who may send may also read, or read this ticket."""
    match outcome:
        case RateLimited() | LockedOut() | Unauthorized(status=401) | Unreachable():
            pass
        case _:
            return
    async with conn.transaction():
        standing = await accounts.standing(conn, name)
        if not standing.is_news(lease, began) and not isinstance(outcome, LockedOut):
            # What stopped the account since may be a lock-out, which a lesser refusal must not shorten.
            return
        if why := pause_for(outcome, standing.streak, standing.unsure, random.random):
            await accounts.pause(conn, name, why, lease, token_print)


def is_written(
    text: str, comments: Iterable[Comment], window: tuple[datetime, datetime], others: Iterable[str]
) -> bool:
    """Whether `text` is among the comments of that time, and cannot be there because of another message alone.

    Only as many comments as cannot be explained by `others` (texts that are or may be on the ticket too) are proof.
    """
    wanted = _squeezed(text)
    if not wanted:
        return False
    seen = sum(
        1
        for comment in comments
        if comment.at is not None
        and window[0] <= comment.at <= window[1]
        and any(wanted in form for form in _forms(comment.text))
    )
    return seen > sum(1 for other in others if wanted in _squeezed(other))


def _forms(comment: str) -> Iterable[str]:
    """As it stands, unescaped, and without markup: which of them the gateway gives is not documented."""
    yield _squeezed(comment)
    yield _squeezed(html.unescape(comment))
    yield _squeezed(html.unescape(_TAG.sub(" ", comment)))


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())

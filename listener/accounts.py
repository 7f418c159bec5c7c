"""CareSoft accounts: the pace and pauses that all replicas share, and this process's way to the token."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import DictRow

from listener.caresoft import Access
from listener.database import Connection
from listener.errors import ListenerError, UsageError
from listener.queries import load
from listener.rules import Account
from listener.settings import secret, secret_file

SQL = load("accounts")
DEEDS = load("interventions")


class PauseKind(StrEnum):
    """Why nobody may send for an account just now."""

    RATE = "rate"
    LOCKOUT = "lockout"
    TOKEN = "token"  # noqa: S105
    CONFIG = "config"
    UNREACHABLE = "unreachable"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Stop an account for `seconds`; `reason` is a sentence for people."""

    kind: PauseKind
    seconds: float
    reason: str


def access(name: str, account: Account, environ: Mapping[str, str] = os.environ) -> Access:
    """Domain, service and token of an account, the token read anew each time, so that a new one needs no restart.

    Raises `ListenerError` that names the variable or file, never its content.
    """
    if account.token_file is not None:
        try:
            token = Path(account.token_file).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ListenerError(f"account {name}: token_file cannot be read ({type(error).__name__})") from None
        where = "token_file"
    else:
        variable = (account.token or "").removeprefix("${").removesuffix("}")
        try:
            token = secret(environ, variable) or ""
        except UsageError as error:
            raise ListenerError(f"account {name}: {error}") from None
        where = f"the environment variable {variable}"
        if secret_file(environ, variable) is not None:
            where = f"the file that {variable} is kept in"
    if not token:
        raise ListenerError(f"account {name}: {where} holds no token")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ListenerError(f"account {name}: {where} holds something that cannot be a token")
    return Access(domain=account.domain, service_id=str(account.service_id), token=token)


def token_print(token: str) -> str:
    """Tells two tokens apart without telling the token."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


async def add(conn: Connection, names: list[str]) -> None:
    """Makes the rows of accounts that are new in the rules, stopped by what a person has stopped."""
    async with conn.transaction():
        await conn.execute(DEEDS["my_turn"], {})
        await conn.execute(SQL["add"], {"names": names})


async def pause(conn: Connection, account: str, why: Pause, lease: int, print_of_token: str | None) -> None:
    """Stops an account for every replica, because of the answer to a request under `lease`."""
    args = {
        "account": account,
        "kind": why.kind,
        "seconds": why.seconds,
        "reason": why.reason,
        "lease": lease,
        "token_print": print_of_token,
    }
    await conn.execute(SQL["pause"], args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Refusals, and unclear answers, in a row so far, the lease of the probe under way, and the last stop."""

    streak: int
    unsure: int
    probe: int | None
    paused_at: datetime | None

    def is_news(self, lease: int, began: datetime) -> bool:
        """Whether an answer to a request under `lease` says anything new: not if the request began before the last
        stop, and while there is one only if it is the probe."""
        if self.streak > 0:
            return self.probe == lease
        return self.paused_at is None or began >= self.paused_at


async def standing(conn: Connection, account: str) -> Standing:
    """How an account stands. Locks its row for this transaction."""
    row = await (await conn.execute(SQL["standing"], {"account": account})).fetchone()
    if row is None:
        return Standing(streak=0, unsure=0, probe=None, paused_at=None)
    return Standing(streak=row["streak"], unsure=row["unsure_streak"], probe=row["probe"], paused_at=row["paused_at"])


async def answered(conn: Connection, account: str, leases: list[int]) -> AsyncCursor[DictRow]:
    """The account answered requests under `leases` as it should: if one of them is the probe, the pause ends.

    The cursor's `rowcount` is 0 when nothing was to be changed.
    """
    return await conn.execute(SQL["answered"], {"account": account, "leases": leases})


async def unsure(conn: Connection, account: str) -> None:
    """One more answer that was not seen or not understood."""
    await conn.execute(SQL["unsure"], {"account": account})


async def probe_again(conn: Connection, account: str, lease: int) -> None:
    """If `lease` was the probe it was not sent after all: the next one need not wait for its answer."""
    await conn.execute(SQL["probe_again"], {"account": account, "lease": lease})


async def new_token(conn: Connection, account: str, token: str) -> None:
    """Ends a pause that was made for another token."""
    await conn.execute(SQL["new_token"], {"account": account, "token_print": token_print(token)})


async def all_accounts(conn: Connection) -> list[dict[str, Any]]:
    """`{name, paused_until, pause_reason}` of each account that the database knows, by name. `paused_until` is None for
    one that sends, and may be over for one that is being probed."""
    return await (await conn.execute(SQL["all"], {})).fetchall()


async def clock_set_back(conn: Connection) -> None:
    """Keeps a pause from lasting for as long as the database's clock was set back."""
    await conn.execute(SQL["clock_set_back"], {})

"""CareSoft accounts: the pace and pauses that all replicas share, and this process's way to the token."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from listener.caresoft import Access
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load
from listener.rules import Account

SQL = load("accounts")


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
            token = Path(account.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ListenerError(f"account {name}: token_file cannot be read ({type(error).__name__})") from None
        where = "token_file"
    else:
        variable = (account.token or "").removeprefix("${").removesuffix("}")
        token = environ.get(variable, "").strip()
        if not token and (path := environ.get(f"{variable}_FILE")):
            try:
                token = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ListenerError(
                    f"account {name}: {variable}_FILE cannot be read ({type(error).__name__})"
                ) from None
        where = f"the environment variable {variable}"
    if not token:
        raise ListenerError(f"account {name}: {where} holds no token")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ListenerError(f"account {name}: {where} holds something that cannot be a token")
    return Access(domain=account.domain, service_id=str(account.service_id), token=token)


def token_print(token: str) -> str:
    """Tells two tokens apart without telling the token."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


async def add(conn: Connection, names: list[str]) -> None:
    """Makes the rows of accounts that are new in the rules."""
    await conn.execute(SQL["add"], {"names": names})


async def pause(conn: Connection, account: str, why: Pause, leased_at: datetime, print_of_token: str | None) -> None:
    """Stops an account for every replica; a lock-out is never shortened by a lesser pause."""
    args = {
        "account": account,
        "kind": why.kind,
        "seconds": why.seconds,
        "reason": why.reason,
        "leased_at": leased_at,
        "token_print": print_of_token,
    }
    await conn.execute(SQL["pause"], args)


async def streaks(conn: Connection, account: str) -> tuple[int, int]:
    """Refusals, and unclear answers, in a row so far. Locks the account's row for this transaction."""
    row = await (await conn.execute(SQL["streaks"], {"account": account})).fetchone()
    return (row["streak"], row["unsure_streak"]) if row else (0, 0)


async def answered(conn: Connection, account: str, leased_at: datetime) -> None:
    """The account answered a request of `leased_at` as it should: probing ends."""
    await conn.execute(SQL["answered"], {"account": account, "leased_at": leased_at})


async def unsure(conn: Connection, account: str, n: int) -> None:
    await conn.execute(SQL["unsure"], {"account": account, "n": n})


async def probe_again(conn: Connection, account: str, leased_at: datetime) -> None:
    """The probe was not sent after all: the next one need not wait for its answer."""
    await conn.execute(SQL["probe_again"], {"account": account, "leased_at": leased_at})


async def new_token(conn: Connection, account: str, token: str) -> None:
    """Ends a pause that was made for another token."""
    await conn.execute(SQL["new_token"], {"account": account, "token_print": token_print(token)})


async def all_accounts(conn: Connection) -> list[dict[str, Any]]:
    return await (await conn.execute(SQL["all"], {})).fetchall()

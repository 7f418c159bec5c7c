"""Least privilege, proved by trying: each role does what it must be able to do, and what must be refused.

Everything happens in one transaction that is rolled back. `SET ROLE` is how another role is tried, so whoever asks must
be a member of it (a superuser is of all); who could not be tried is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import psycopg
from psycopg import sql

from listener.capture import Capture
from listener.database import Connection
from listener.queries import load, pieces
from listener.rights.needs import Needs
from listener.rights.roles import Roles, readers, ungranted

SQL = load("roles")
# ERP roles that are tried, at most
_ROLES = 5
_HIDDEN = "{}: row-level security hides rows from {} that no policy lets it see"


class Did(StrEnum):
    """How a try ended."""

    WORKED = "worked"
    REFUSED = "refused"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try: `must` is what should happen; `why` tells what did, or how to mend it."""

    role: str
    what: str
    must: Did
    did: Did
    why: str = ""

    @property
    def wrong(self) -> bool:
        return self.did not in (self.must, Did.UNTRIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All tries, and what else is to be known of the roles."""

    tries: tuple[Try, ...]
    notes: tuple[str, ...] = ()


async def try_out(conn: Connection, wanted: Roles, captures: Sequence[Capture], needs: Sequence[Needs]) -> Report:
    """Tries the daemon's roles, readers and the ERP's roles. Nothing stays of it."""
    tries: list[Try] = []
    notes: list[str] = []
    others = [*wanted.daemons, *await readers(conn)]
    owner = await (await conn.execute(SQL["owner"], {})).fetchone()
    if owner is not None and owner["super"]:
        notes.append(
            f"listener was installed by {owner['name']}, a superuser: `where` of a watch runs with all rights; "
            "better let the owner of the tables install it"
        )
    async with conn.transaction(force_rollback=True):
        # Whatever is not refused at once must not hold up the ERP.
        await conn.execute("SET LOCAL lock_timeout = '200ms'")
        await conn.execute("SET LOCAL statement_timeout = '5s'")
        for role in wanted.daemons:
            tries += await _listed(conn, role, "daemon", captures)
            tries += await _rules(conn, role, needs, notes)
            notes += await _beyond(conn, role, captures, needs)
        for role in await readers(conn):
            tries += await _listed(conn, role, "reader", captures)
        tables = [capture.table.oid for capture in captures]
        rows = await (await conn.execute(SQL["writers"], {"tables": tables, "others": others})).fetchall()
        for row in rows[:_ROLES]:
            tries += await _listed(conn, row["name"], "erp", captures)
        if len(rows) > _ROLES:
            notes.append(f"of {len(rows)} roles that write to watched tables {_ROLES} were tried")
    return Report(tries=tuple(tries), notes=tuple(notes))


async def refused(conn: Connection, role: str, needs: Sequence[Needs]) -> list[tuple[Needs, str]]:
    """Which of `needs` the role is refused, each with what would mend it. What cannot be tried counts as granted."""
    found = []
    async with conn.transaction(force_rollback=True):
        for need in needs:
            tried = await _rules(conn, role, [need], [])
            found += [(need, t.why) for t in tried if t.did is Did.REFUSED]
    return found


async def _listed(conn: Connection, role: str, part: str, captures: Sequence[Capture]) -> list[Try]:
    """The tries of `sql/tries.sql` for one part."""
    tries = []
    for name, text in pieces("tries.sql").items():
        who, must, _ = name.split("_", 2)
        if who != part or (not captures and ("{table}" in text or "{function}" in text)):
            continue
        words, statement = text.removeprefix("-- ").split("\n", 1)
        tried = Try(role=role, what=words, must=Did.WORKED if must == "may" else Did.REFUSED, did=Did.UNTRIED)
        tries.append(await _try(conn, tried, _filled(statement, captures)))
    return tries


def _filled(statement: str, captures: Sequence[Capture]) -> sql.Composed:
    watched = captures[0] if captures else None
    return sql.SQL(statement.strip()).format(
        table=watched.table.identifier if watched else sql.SQL(""),
        function=sql.Identifier("listener", watched.function) if watched else sql.SQL(""),
    )


async def _rules(conn: Connection, role: str, needs: Sequence[Needs], notes: list[str]) -> list[Try]:
    """What the rules make the daemon do to the ERP's tables."""
    tries = []
    for need in needs:
        if need.fault:
            continue
        if need.statement is None:
            cure = "; ".join(await ungranted(conn, role, need.grants))
            did = Did.REFUSED if cure else Did.WORKED
            tries.append(Try(role=role, what=need.what, must=Did.WORKED, did=did, why=cure))
            if need.must and await _shown(conn, role, need) is False:
                notes.append(_HIDDEN.format(need.what, role))
            continue
        statement = sql.SQL("EXPLAIN {}").format(sql.SQL(need.statement))
        tried = await _try(conn, Try(role=role, what=need.what, must=Did.WORKED, did=Did.UNTRIED), statement)
        if tried.did is not Did.WORKED:
            # The catalogue knows also of a role that we may not be.
            cure = "; ".join(await ungranted(conn, role, need.grants))
            tried = replace(tried, why=cure or tried.why, did=Did.REFUSED if cure else tried.did)
        elif tried.did is Did.WORKED:
            # With row_security off PostgreSQL refuses what a policy may leave rows out of, also behind a view; it does
            # not see that a policy leaves out none.
            whole = await _try(conn, tried, statement, row_security="off")
            if whole.did is Did.REFUSED and not await _shown(conn, role, need):
                notes.append(_HIDDEN.format(need.what, role))
        tries.append(tried)
    return tries


async def _shown(conn: Connection, role: str, need: Needs) -> bool | None:
    """Whether policies show the role every row of the tables in `need`; None where nothing hides any."""
    tables = sorted({(grant.oid, grant.privilege) for grant in need.grants if grant.kind == "TABLE"})
    args = {"role": role, "oids": [oid for oid, _ in tables], "privileges": [privilege for _, privilege in tables]}
    row = await (await conn.execute(SQL["shown"], args)).fetchone()
    return row["whole"] if row is not None else None


async def _beyond(conn: Connection, role: str, captures: Sequence[Capture], needs: Sequence[Needs]) -> list[str]:
    """Tables of the ERP that the role can read or write though no rule needs it."""
    used = {grant.oid for need in needs for grant in need.grants} | {capture.table.oid for capture in captures}
    rows = await (await conn.execute(SQL["readable"], {"role": role})).fetchall()
    names = [row["name"] for row in rows if row["oid"] not in used]
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{role} can use tables that no rule needs: {', '.join(names[:3])}{more}"]


async def _try(conn: Connection, tried: Try, statement: sql.Composed, row_security: str = "on") -> Try:
    """`tried` with what happened."""
    text = statement.as_string(conn).encode()
    try:
        async with conn.transaction(force_rollback=True):
            try:
                async with conn.transaction():
                    await conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(tried.role)))
                    await conn.execute(sql.SQL("SET LOCAL row_security = {}").format(sql.Literal(row_security)))
            except psycopg.errors.InsufficientPrivilege:
                return replace(tried, did=Did.UNTRIED, why=f"only {tried.role}, its members and superusers can try it")
            # One statement and no second one behind it, since some are of the rules.
            await conn.execute(text, binary=True)
    except psycopg.errors.InsufficientPrivilege as error:
        return replace(tried, did=Did.REFUSED, why=str(error.diag.message_primary))
    except psycopg.errors.LockNotAvailable:
        # The right is asked for before the lock.
        return replace(tried, did=Did.WORKED)
    except psycopg.Error as error:
        if conn.closed:
            raise
        return replace(tried, did=Did.UNTRIED, why=str(error.diag.message_primary))
    return replace(tried, did=Did.WORKED)

"""Rules to an installed database: the schema, the triggers of every watch, the rights of every role."""

from collections.abc import Callable, Sequence

from psycopg import sql

from listener import capture, migrations, rights
from listener.database import Connection
from listener.errors import ListenerError
from listener.rules.ruleset import RuleSet
from listener.settings import Settings

MEND = "mend rules.yaml or the table"


async def captures(
    conn: Connection, rules: RuleSet, settings: Settings, *, tried: bool = True
) -> list[capture.Capture]:
    """What every watch of the rules needs in the database. Raises `ListenerError` with all that is missing.

    With `tried` each `where` is run for some rows, which is not for who asks again and again.
    """
    found: list[capture.Capture] = []
    faults: list[str] = []
    for name, watch in rules.rules.watch.items():
        if watch.table is None:
            continue
        try:
            used = rules.used_columns(name)
            found.append(await capture.wanted(conn, name, watch, used, doorbell=settings.doorbell))
            if tried:
                await capture.try_where(conn, found[-1].table, watch.where)
        except ListenerError as error:
            faults.append(f"watch {name}: {error}")
    if faults:
        raise ListenerError("\n".join(faults))
    return found


async def gaps(conn: Connection, rules: RuleSet, settings: Settings) -> list[str]:
    """What capture lacks of what the rules need, a line each; while there is one, changes may go by unseen.

    What is there and not needed is no gap, nor is a right of others that is missing. Each begins with what is to be
    done: a table or column that is not there is not for `install` to mend.
    """
    try:
        steps = await capture.differences(conn, await captures(conn, rules, settings, tried=False))
    except ListenerError as error:
        return [f"{MEND}: {fault}" for fault in str(error).splitlines()]
    return [f"{step.step.value} {step.what}" for step in steps if step.step not in capture.HARMLESS]


async def install(
    conn: Connection,
    rules: RuleSet,
    settings: Settings,
    say: Callable[[str], None] = lambda _: None,
    *,
    daemon_role: str | None = None,
    reader_role: str | None = None,
) -> None:
    """Brings schema, triggers and rights to what the rules want; doing it again does nothing.

    Raises `ListenerError` when it may not, and at the end with the statements that others have to run.
    """
    async with migrations.in_turn(conn):
        wanted = await rights.roles(conn, daemon_role, reader_role)
        for migration in await migrations.migrate(conn):
            say(f"migration {migration.name}")
        found = await captures(conn, rules, settings)
        await capture.apply(conn, await capture.differences(conn, found), say)
        await capture.apply(conn, await rights.own_steps(conn, wanted), say)
        steps = await erp_steps(conn, wanted, rules, found)
        await capture.apply(conn, [step for step in steps if step.ours], say)
    for name in wanted.shut:
        say(f"nobody can connect as {name} yet: ALTER ROLE {sql.Identifier(name).as_string(conn)} LOGIN PASSWORD '...'")
    if theirs := [step.statement for step in await erp_steps(conn, wanted, rules, found)]:
        told = "".join(f"\n  {statement};" for statement in theirs)
        raise ListenerError(f"all else is done; these rights are for the owners of the tables to give:{told}")


async def erp_steps(
    conn: Connection, wanted: rights.Roles, rules: RuleSet, found: Sequence[capture.Capture]
) -> list[capture.Difference]:
    """Rights to the ERP's own tables that the daemon's roles lack, or have of us and no longer need."""
    if not wanted.daemons:
        return await rights.take_back(conn)
    needs = await rights.needs_of(conn, rules.rules, found)
    if unclear := [need for need in needs if need.unclear]:
        raise ListenerError(f"what {unclear[0].what} touches cannot be found out: {unclear[0].unclear}")
    return await rights.erp_steps(conn, wanted, {grant for need in needs for grant in need.grants})


async def uninstall(conn: Connection, say: Callable[[str], None]) -> dict[str, list[str]]:
    """Removes all that `install` made in this database, telling each; returns the roles, which belong to the server,
    with what of this database they still have rights to."""
    left = await rights.roles(conn)
    readers = await rights.readers(conn)
    await capture.apply(conn, await rights.take_back(conn), say)
    await capture.uninstall(conn, say)
    return {role: await rights.left_to(conn, role) for role in (*left.daemons, *readers)}

"""Rules to an installed database: the schema, and the triggers of every watch."""

from collections.abc import Callable

from listener import capture, migrations
from listener.database import Connection
from listener.errors import ListenerError
from listener.rules.ruleset import RuleSet
from listener.settings import Settings


async def captures(conn: Connection, rules: RuleSet, settings: Settings) -> list[capture.Capture]:
    """What every watch of the rules needs in the database. Raises `ListenerError` with all that is missing."""
    found: list[capture.Capture] = []
    faults: list[str] = []
    for name, watch in rules.rules.watch.items():
        if watch.table is None:
            continue
        try:
            used = rules.used_columns(name)
            found.append(await capture.wanted(conn, name, watch, used, doorbell=settings.doorbell))
        except ListenerError as error:
            faults.append(f"watch {name}: {error}")
    if faults:
        raise ListenerError("\n".join(faults))
    return found


async def gaps(conn: Connection, rules: RuleSet, settings: Settings) -> list[str]:
    """What capture lacks of what the rules need, a line each; while there is one, changes may go by unseen.

    What is there and not needed is no gap.
    """
    try:
        steps = await capture.differences(conn, await captures(conn, rules, settings))
    except ListenerError as error:
        return str(error).splitlines()
    return [f"{step.step.value} {step.what}" for step in steps if step.step is not capture.Step.DROP]


async def install(
    conn: Connection, rules: RuleSet, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> None:
    """Brings schema and triggers to what the rules want; doing it again does nothing."""
    for migration in await migrations.migrate(conn):
        say(f"migration {migration.name}")
    steps = await capture.differences(conn, await captures(conn, rules, settings))
    await capture.apply(conn, steps, say)

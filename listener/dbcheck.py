"""`check --db`: the rules against the database they are for, each fault at its line of the file."""

import psycopg

from listener import capture, migrations
from listener.database import Connection
from listener.errors import Fault, ListenerError
from listener.lookups import batched
from listener.rules import Source, Watch, parameters
from listener.rules.ruleset import RuleSet
from listener.settings import Settings
from listener.words import did_you_mean


async def database_faults(conn: Connection, document: Source, rules: RuleSet, settings: Settings) -> list[Fault]:
    """Tables, columns, lookups and triggers, in the order of the file."""
    faults: list[Fault] = []
    wanted: list[capture.Capture] = []
    for name, watch in rules.rules.watch.items():
        if watch.table is None:
            continue
        try:
            table = await capture.find_table(conn, watch.table)
        except ListenerError as error:
            faults.append(document.fault(("watch", name, "table"), str(error)))
            continue
        if not table.owned:
            cure = "run listener as the owner, or let the owner run `listener db sql`"
            faults.append(document.fault(("watch", name, "table"), f"{table} belongs to another role", cure))
        missing = _missing_columns(document, name, watch, table, rules)
        faults += missing + [
            f for f in [await _lookup_fault(conn, document, name, n, q) for n, q in watch.lookup.items()] if f
        ]
        if not missing:
            try:
                wanted.append(
                    await capture.wanted(conn, name, watch, rules.used_columns(name), doorbell=settings.doorbell)
                )
            except ListenerError as error:
                faults.append(document.fault(("watch", name), str(error), key=True))
    if faults:
        return faults
    if await migrations.pending(conn):
        return [
            document.fault((), "the database has no `listener` schema of this version", "run `listener db install`")
        ]
    return [
        document.fault(
            ("watch", d.watch) if d.watch in rules.rules.watch else (),
            f"{d.what} is not as the rules want it",
            "run `listener db install`",
            key=True,
        )
        for d in await capture.differences(conn, wanted)
    ]


def _missing_columns(document: Source, name: str, watch: Watch, table: capture.Table, rules: RuleSet) -> list[Fault]:
    """Columns that the watch, a lookup or a rule names and the table does not have, each once, where it is named."""
    places: dict[str, tuple[str | int, ...]] = {}
    for word in ("columns", "key"):
        places |= dict.fromkeys(getattr(watch, word), ("watch", name, word))
    for lookup, query in watch.lookup.items():
        places |= dict.fromkeys(parameters(query), ("watch", name, "lookup", lookup))
    for compiled in rules.by_watch.get(name, ()):
        rule = compiled.rule.name
        places |= dict.fromkeys(compiled.rule.change, ("rules", rule, "change"))
        places |= {
            dotted[1]: ("rules", rule) for dotted in compiled.names if dotted[0] in ("old", "new") and len(dotted) > 1
        }
    return [
        document.fault(place, f"{table} has no column {column}", did_you_mean(column, table.columns).lstrip("; "))
        for column, place in places.items()
        if column not in table.columns
    ]


async def _lookup_fault(conn: Connection, document: Source, watch: str, name: str, query: str) -> Fault | None:
    try:
        await batched(conn, query)
    except psycopg.Error as error:
        text = error.diag.message_primary or type(error).__name__
        return document.fault(("watch", watch, "lookup", name), f"the database refuses this lookup: {text}")
    return None

"""`listener check` and `preview`: the rules file before it meets a customer."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from listener import route
from listener.cli.common import asynchronous, fail, output_option, print_json, rules_option, shown
from listener.database import Connection, connect
from listener.dbcheck import database_faults, too_long
from listener.errors import Fault, ListenerError, OutOfReachError, RulesError
from listener.preview import Rows, key_of, row_by_key, rows_of
from listener.preview import preview as judge
from listener.rules import build, load, read, read_text, schema_text
from listener.rules.lint import warnings
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings, read_settings
from listener.words import counted, did_you_mean

_GUESSED = "watch {} names no `key:` and no primary key is known here, so the row's first value is taken for the key"


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--db", "database", is_flag=True, help="Also check tables, columns, lookups and triggers in the database."
)
@output_option
@asynchronous
async def check(file: Path | None, database: bool, output: str) -> None:
    """Validate the rules; every fault with its line, and how to mend it."""
    settings = read_settings(rules=file)
    faults: list[Fault] = []
    doubts: list[Fault] = []
    try:
        document = load(read_text(settings.rules), str(settings.rules))
        rules = compile_rules(build(document))
        doubts = warnings(document, rules.rules)
        if database:
            async with await connect(settings, "check") as conn:
                await route.refuse_shared(conn, settings)
                faults = sorted(await database_faults(conn, document, rules, settings))
                if not faults:
                    doubts = sorted([*doubts, *await too_long(conn, document, rules)])
    except RulesError as error:
        faults = error.faults
    if output == "json":
        print_json({"ok": not faults, "faults": [asdict(f) for f in faults], "warnings": [asdict(d) for d in doubts]})
    else:
        for fault in faults:
            click.echo(str(fault))
        if not faults:
            click.echo(f"{settings.rules}: in order, {counted(len(rules.rules.rules), 'rule')}")
        for doubt in doubts:
            click.echo(f"warning: {doubt}", err=True)
    if faults:
        raise fail(f"{len(faults)} fault{'s' if len(faults) > 1 else ''}", 1)


@click.command()
def schema() -> None:
    """Print the JSON Schema of rules.yaml; editors complete and check by it."""
    click.echo(schema_text(), nl=False)


@click.command()
@click.argument("rule")
@click.option("--key", help="Take the row of the watched table that has this key.")
@click.option("--row", help='The new row as JSON, or {"old": …, "new": …}.')
@rules_option
@output_option
@asynchronous
async def preview(rule: str, key: str | None, row: str | None, rules_path: Path | None, output: str) -> None:
    """What RULE would send for one row: text, parts, phone, ticket, and why or why not. Never sends."""
    if (key is None) == (row is None):
        raise click.UsageError("give either --key or --row")
    settings = read_settings(rules=rules_path)
    rules = compile_rules(read(settings.rules))
    if rule not in rules.rules.rules:
        raise ListenerError(f"the rules have no rule {rule}{did_you_mean(rule, rules.rules.rules)}")
    rows = rows_of(row) if row is not None else None
    verdict = await _with_database(settings, rules, rule, key, rows)
    if output == "json":
        print_json(verdict)
    else:
        _show(verdict)
    if verdict["verdict"] == "reject":
        raise SystemExit(1)


async def _with_database(
    settings: Settings, rules: RuleSet, rule: str, key: str | None, rows: Rows | None
) -> dict[str, Any]:
    """A row that is given needs no database unless the rule looks something up."""
    watch = rules.rules.rules[rule].on
    conn: Connection | None = None
    try:
        conn = await connect(settings, "preview")
    except OutOfReachError:
        if rows is None or rules.rules.watch[watch].lookup:
            raise
    try:
        if rows is None:
            assert conn is not None and key is not None
            rows = await row_by_key(conn, rules, watch, key)
        elif (key := await key_of(rules.rules.watch[watch], rows, conn)) is None:
            click.echo(f"note: {_GUESSED.format(watch)}", err=True)
        return await judge(rules, rule, rows, key=key, conn=conn, settings=settings)
    finally:
        if conn is not None:
            await conn.close()


def _show(verdict: dict[str, Any]) -> None:
    because = f", because {shown(verdict['reason'])}" if verdict["reason"] else ""
    click.echo(f"{verdict['rule']}: {verdict['verdict']}{because}")
    for message in verdict["messages"]:
        click.echo("")
        for name in ("to", "text", "parts", "encoding", "ticket_id", "thread", "due_at"):
            click.echo(f"  {name.replace('_id', ''):9} {shown(message[name])}")
        if message["reason"] not in (None, verdict["reason"]):
            click.echo(f"  note      {shown(message['reason'])}")

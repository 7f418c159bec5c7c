"""`listener db …`: what stands in the database, what should, and the way between."""

import sys
from pathlib import Path
from typing import Any

import click

from listener import capture, installation, migrations
from listener.cli.common import asynchronous, fail, output_option, print_json, rules_option
from listener.database import Connection, connect
from listener.errors import ListenerError
from listener.rules import read
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings, read_settings


@click.group()
def db() -> None:
    """Schema and triggers in the ERP's database.

    Run these as the role that owns the watched tables; a superuser is not needed.
    """


def _load(rules_path: Path | None) -> tuple[Settings, RuleSet]:
    settings = read_settings(rules=rules_path)
    return settings, compile_rules(read(settings.rules))


async def _steps(conn: Connection, captures: list[capture.Capture]) -> list[dict[str, str]]:
    """Migrations and differences as rows: what `install` would do, in its order."""
    todo = await migrations.pending(conn)
    rows = [{"step": "migrate", "watch": "", "what": m.name, "statement": m.text} for m in todo]
    steps = await capture.differences(conn, captures)
    return rows + [{"step": s.step.value, "watch": s.watch, "what": s.what, "statement": s.statement} for s in steps]


@db.command()
@rules_option
@output_option
@asynchronous
async def plan(rules_path: Path | None, output: str) -> None:
    """Show what `install` would change; changes nothing."""
    settings, rules = _load(rules_path)
    async with await connect(settings, "db") as conn:
        steps = await _steps(conn, await installation.captures(conn, rules, settings))
    if output == "json":
        print_json({"ok": not steps, "steps": steps})
        return
    for step in steps:
        click.echo(f"{step['step']:8} {step['what']}")
    if not steps:
        click.echo("nothing to do: the database is as the rules want it")


@db.command()
@rules_option
@asynchronous
async def install(rules_path: Path | None) -> None:
    """Bring schema and triggers to what the rules want; doing it again does nothing."""
    settings, rules = _load(rules_path)
    async with await connect(settings, "db") as conn:
        await installation.install(conn, rules, settings, _say)
        captures = await installation.captures(conn, rules, settings)
        for warning in await capture.warnings(conn, captures, doorbell=settings.doorbell):
            _say(f"warning: {warning}")
    click.echo("installed: the database is as the rules want it")


@db.command()
@rules_option
@output_option
@asynchronous
async def verify(rules_path: Path | None, output: str) -> None:
    """Check that every trigger is there, enabled and up to date; exit 1 if not."""
    settings, rules = _load(rules_path)
    found: dict[str, Any] = {"ok": False, "faults": [], "steps": [], "warnings": []}
    async with await connect(settings, "db") as conn:
        try:
            captures = await installation.captures(conn, rules, settings)
        except ListenerError as error:
            # A table or column that rules use is not there: `install` cannot mend it.
            found["faults"] = str(error).splitlines()
        else:
            found["steps"] = await _steps(conn, captures)
            found["warnings"] = await capture.warnings(conn, captures, doorbell=settings.doorbell)
    found["ok"] = not found["steps"] and not found["faults"]
    if output == "json":
        print_json(found)
    else:
        for warning in found["warnings"]:
            _say(f"warning: {warning}")
        for fault in found["faults"]:
            click.echo(fault)
        for step in found["steps"]:
            click.echo(f"needs {step['step']}: {step['what']}")
    if found["faults"]:
        raise fail("the rules and the tables do not fit; mend rules.yaml or the table", 1)
    if found["steps"]:
        raise fail("the database is not as the rules want it; run `listener db install`", 1)
    if output != "json":
        click.echo("in order: every trigger is there, enabled and up to date")


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask, even if unsent messages would be lost.")
@asynchronous
async def uninstall(yes: bool) -> None:
    """Remove the triggers, their functions and the schema with all messages in it."""
    settings = read_settings()
    async with await connect(settings, "db") as conn:
        if await migrations.installed(conn):
            _ask(await capture.unfinished(conn), yes=yes)
            await capture.uninstall(conn, _say)
    click.echo("removed: nothing of listener is left in this database")


@db.command(name="sql")
@rules_option
@asynchronous
async def print_sql(rules_path: Path | None) -> None:
    """Print the SQL that `install` would run, for a DBA to read and run."""
    settings, rules = _load(rules_path)
    async with await connect(settings, "db") as conn:
        todo = await migrations.pending(conn)
        steps = await capture.differences(conn, await installation.captures(conn, rules, settings))
    if not todo and not steps:
        click.echo("-- nothing to do: the database is as the rules want it")
        return
    # A trigger's lock makes every later writer of its table wait behind it.
    click.echo("BEGIN;\nSET LOCAL lock_timeout = '5s';\n")
    click.echo(migrations.script(todo))
    for step in steps:
        click.echo(f"{step.statement.rstrip(';')};\n")
    click.echo("COMMIT;")


def _ask(unfinished: int, *, yes: bool) -> None:
    if not unfinished or yes:
        return
    lost = f"{unfinished} changes and messages are not finished and would be lost"
    if not sys.stdin.isatty():
        raise fail(f"{lost}; say --yes if they may be", 1)
    click.confirm(f"{lost}. Remove everything?", abort=True, err=True)


def _say(line: str) -> None:
    """Progress and warnings, on stderr."""
    click.echo(line, err=True)

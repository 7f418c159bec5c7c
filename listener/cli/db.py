"""`listener db …`: what stands in the database, what should, and the way between."""

from pathlib import Path

import click

from listener import capture, installation, migrations
from listener.cli.common import asynchronous, fail, output_option, print_json, rules_option
from listener.database import Connection, connect
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


async def _steps(conn: Connection, rules: RuleSet, settings: Settings) -> list[dict[str, str]]:
    """Migrations and differences as rows: what `install` would do, in its order."""
    todo = await migrations.pending(conn)
    rows = [{"step": "migrate", "watch": "", "what": m.name, "statement": m.text} for m in todo]
    steps = await capture.differences(conn, await installation.captures(conn, rules, settings))
    return rows + [{"step": s.step.value, "watch": s.watch, "what": s.what, "statement": s.statement} for s in steps]


@db.command()
@rules_option
@output_option
@asynchronous
async def plan(rules_path: Path | None, output: str) -> None:
    """Show what `install` would change; changes nothing."""
    settings, rules = _load(rules_path)
    async with await connect(settings, "db") as conn:
        steps = await _steps(conn, rules, settings)
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
        await installation.install(conn, rules, settings, lambda line: click.echo(line, err=True))
    click.echo("installed: the database is as the rules want it")


@db.command()
@rules_option
@output_option
@asynchronous
async def verify(rules_path: Path | None, output: str) -> None:
    """Check that every trigger is there, enabled and up to date; exit 1 if not."""
    settings, rules = _load(rules_path)
    async with await connect(settings, "db") as conn:
        steps = await _steps(conn, rules, settings)
        warnings = await capture.warnings(conn)
    if output == "json":
        print_json({"ok": not steps, "steps": steps, "warnings": warnings})
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        for step in steps:
            click.echo(f"needs {step['step']}: {step['what']}")
    if steps:
        raise fail("the database is not as the rules want it; run `listener db install`", 1)
    if output != "json":
        click.echo("in order: every trigger is there, enabled and up to date")


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@asynchronous
async def uninstall(yes: bool) -> None:
    """Remove the triggers, their functions and the schema with all messages in it."""
    settings = read_settings()
    async with await connect(settings, "db") as conn:
        waiting = await capture.waiting(conn)
        if waiting and not yes and click.get_text_stream("stdin").isatty():
            click.confirm(
                f"{waiting} messages are not sent yet and would be lost. Remove everything?", abort=True, err=True
            )
        for what in await capture.uninstall(conn):
            click.echo(f"removed {what}", err=True)
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
    click.echo("BEGIN;")
    click.echo(migrations.script(todo))
    for step in steps:
        click.echo(step.statement + "\n")
    click.echo("COMMIT;")

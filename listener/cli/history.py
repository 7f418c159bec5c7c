"""`listener why` and `replay`: what happened to one person, and what other rules would have done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from listener import pauses, phones
from listener.cli.common import asynchronous, fail, output_option, print_json, print_table, rules_option, shown
from listener.cli.filters import duration
from listener.database import connect
from listener.replay import in_force
from listener.replay import replay as run_replay
from listener.rules import read
from listener.rules.ruleset import compile_rules
from listener.sentences import Language, sentence
from listener.settings import read_settings
from listener.why import why as ask
from listener.words import counted, mask_phones, moment


@click.command()
@click.argument("asked", metavar="PHONE|KEY")
@click.option(
    "--lang",
    "language",
    type=click.Choice([x.value for x in Language]),
    default="vi",
    show_default=True,
    help="Language of the sentences.",
)
@click.option("--reveal", is_flag=True, help="Show whole phone numbers.")
@output_option
@asynchronous
async def why(asked: str, language: str, reveal: bool, output: str) -> None:
    """What happened to one phone or one key, and why: changes, rules, messages, requests, in one timeline."""
    async with await connect(read_settings(), "why") as conn:
        timeline = await ask(conn, asked, reveal=reveal)
        if reveal:
            number = phones.normalise(asked, migrate_old=True)
            masked = phones.mask_phone(number.number) if isinstance(number, phones.Phone) else mask_phones(asked)
            await pauses.revealed(conn, "why", {"of": masked}, len(timeline.entries))
    words = Language(language)
    told = [(entry, sentence(entry, words)) for entry in timeline.entries]
    if output == "json":
        entries = [{"at": e.at, "kind": e.kind, "sentence": text, **e.facts} for e, text in told]
        print_json({"phone": timeline.phone, "key": timeline.key, "cut": timeline.cut, "timeline": entries})
    else:
        for entry, text in told:
            click.echo(f"{moment(entry.at)}  {shown(text)}")
            if entry.kind == "message" and entry.facts["text"]:
                click.echo(f"{' ' * 21}{entry.facts['text']!r}")
        if timeline.cut:
            click.echo("older changes are left out", err=True)
    if not told:
        reason = phones.normalise(asked)
        told_why = (
            f" ({phones.reason_text(reason)})" if isinstance(reason, phones.BadPhone) and asked[:1] in "+0" else ""
        )
        raise fail(f"nothing is known of this phone or key{told_why}", 1)
    if timeline.phone is not None:
        click.echo("changes that made no message are found by their key", err=True)


@click.command()
@click.option("--since", default="7d", show_default=True, help="Changes matched in the last 30m, 6h or 7d.")
@rules_option
@output_option
@asynchronous
async def replay(since: str, rules_path: Path | None, output: str) -> None:
    """Recorded changes through new rules, beside the rules in force: SMS, parts, people. Sends and writes nothing."""
    settings = read_settings(rules=rules_path)
    new = compile_rules(read(settings.rules))
    begin = datetime.now(UTC) - duration(since, "--since")
    session = {"default_transaction_read_only": "on", "idle_in_transaction_session_timeout": "60s"}
    async with await connect(settings, "replay", **session) as conn:
        old = await in_force(conn)
        with _bar() as advance:
            report = await run_replay(conn, settings, new, old, begin, advance)
    shape = {"since": begin, "rules_file": str(settings.rules), "version_in_force": old.version, **report.shape()}
    if output == "json":
        print_json(shape)
        return
    _show(shape)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("changes", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("changes", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _show(shape: dict[str, Any]) -> None:
    click.echo(
        f"{counted(shape['changes'], 'change')} since {moment(shape['since'])}: {shape['rules_file']} beside the rules "
        f"in force (version {shape['version_in_force']})\n"
    )
    rows = [(name, sides["new"], sides["in_force"]) for name, sides in shape["rules"].items()]
    rows.append(("all rules", shape["new"], shape["in_force"]))
    print_table(
        ["rule", *(f"{what} {side}" for what in ("SMS", "parts", "people", "unfit") for side in ("new", "in force"))],
        (
            [name, *(side[what] for what in ("sms", "parts", "people", "unfit") for side in (new, old))]
            for name, new, old in rows
        ),
    )
    if shape["receivers"]:
        click.echo("")
        print_table(
            ["biggest receivers", "SMS new", "SMS in force"],
            ([row["phone"], row["new"], row["in_force"]] for row in shape["receivers"]),
        )
    for name, sides in shape["rules"].items():
        for reason, count in sides["new"]["reasons"].items():
            click.echo(f"unfit by the new {name}: {counted(count, 'time')}, {reason}")

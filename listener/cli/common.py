"""What all verbs share: running async code, errors to exit codes, tables and JSON."""

import asyncio
import errno
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import psycopg

from listener.database import dumps_exact
from listener.errors import ListenerError, OutOfReachError
from listener.words import moment

P = ParamSpec("P")
T = TypeVar("T")

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="text for people, json for programs."
)
rules_option = click.option(
    "--rules", "rules_path", type=click.Path(path_type=Path), help="The rules file [LISTENER_RULES, else rules.yaml]."
)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`); None for asyncio's own."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


def asynchronous(verb: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Runs an async verb; what it raises on purpose becomes a line on stderr and an exit code."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(verb(*args, **kwargs))
        except BaseException as error:
            first = _first(error)
            if isinstance(first, _OTHERS):
                raise first from None
            raise fail(*_told(first)) from None

    return run


def fail(text: str, code: int) -> SystemExit:
    """Says why on stderr; raise what it returns."""
    click.echo(text, err=True)
    return SystemExit(code)


def confirm(question: str) -> None:
    """Goes on at a yes; else click ends the verb."""
    # asyncio's own handler would only note the first Ctrl-C, and the question would stand as if nobody had answered.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True, err=True)
    finally:
        signal.signal(signal.SIGINT, before)


# for click and Python to handle: a person's no, Ctrl-C, an exit code, a pipe whose reader is gone
_OTHERS = (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError, SystemExit, KeyboardInterrupt)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: BaseException) -> tuple[str, int]:
    """What ended a verb, in words for people, and its exit code."""
    match error:
        case ListenerError():
            return str(error), error.exit_code
        case psycopg.errors.LockNotAvailable() | psycopg.errors.QueryCanceled():
            return "the database did not get to it in time (a lock, or too much work); try again", 1
        case psycopg.OperationalError():
            words = "the connection to the database was lost; what was asked may be done or not: look, then try again"
            return words, OutOfReachError.exit_code
        case psycopg.errors.InsufficientPrivilege():
            return f"the database refuses: {error.diag.message_primary}", 1
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return "there is no room left where this is written to: what was written is not whole", 1
        # Of an older version, too: each verb knows what it asks of the rules itself.
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedFunction():
            return "the database has no `listener` schema of this version; run `listener db install` once", 1
        case _:
            return _in_short(error), 1


def _in_short(error: BaseException) -> str:
    """A bug of ours: its place helps, its text and its values might hold a phone number or a password."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else ""
    return f"stopped by a fault of its own: {type(error).__name__}{place}"


def print_json(value: object) -> None:
    """JSON on stdout: times with zone, whole numbers as numbers, Vietnamese readable."""
    click.echo(dumps_exact(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout, as wide as the terminal; when piped, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 100_000, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: what the ERP or the gateway wrote is shown as it is.
        table.add_row(*(Text(shown(cell)) for cell in row))
    console.print(table)


def shown(value: object) -> str:
    """A value for people: local time to the second, `-` for nothing; a text of the ERP's does nothing to a terminal."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return moment(value)
    return _CONTROL.sub(lambda c: f"\\x{ord(c[0]):02x}", str(value))


# what a terminal obeys, but for the end of a line
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")

"""`listener VERB`: verbs are imported only when called, so that `--help` and completion are quick."""

import importlib
import os
import signal
import sys
from pathlib import Path

import click

from listener import __version__

# verb -> module of this package that defines it, and the line `--help` shows
_VERBS = {
    "demo": ("daemon", "Show the whole way on a throw-away PostgreSQL and gateway."),
    "run": ("daemon", "The daemon: match changes and send messages."),
    "check": ("rules", "Validate rules.yaml; with --db also against the database."),
    "test": ("trials", "Run the tests that stand beside the rules."),
    "schema": ("rules", "The JSON Schema of rules.yaml, for editors."),
    "preview": ("rules", "What a rule would send for one row; never sends."),
    "replay": ("history", "Recorded changes through new rules, beside the rules in force; sends nothing."),
    "why": ("history", "What happened to one phone or key, and why: one timeline."),
    "db": ("db", "Schema and triggers: plan, install, verify, uninstall, sql."),
    "messages": ("show", "List messages."),
    "message": ("show", "One message with its attempts."),
    "retry": ("act", "Send messages again."),
    "cancel": ("act", "Never send messages that wait, are held or unknown."),
    "release": ("act", "Let go of held messages."),
    "pause": ("act", "Stop sending: everything, a rule, an account or a phone."),
    "resume": ("act", "End a pause."),
    "forget": ("act", "Remove a person's data."),
    "export": ("act", "All that is kept about a person."),
    "suppress": ("act", "Send no SMS to a phone any more."),
    "status": ("show", "One screen: backlog, pace, pauses, rules, failures."),
    "healthcheck": ("healthcheck", "Ask the daemon on this machine whether it is well."),
    "simulator": ("daemon", "The CareSoft API on this machine, for trying things out."),
}


class _Verbs(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        if name == "run":
            # SIGHUP asks for a reload: no reason to end while it starts, when the rules are still to be read anyway.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        module = importlib.import_module(f"listener.cli.{_VERBS[name][0]}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from listener.words import did_you_mean

            raise click.UsageError(f"there is no verb {args[0]!r}{did_you_mean(args[0], _VERBS)}", ctx) from None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in _VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="listener %(version)s")
def main() -> None:
    """Turns changes in an ERP's PostgreSQL tables into SMS through CareSoft."""
    # Whoever starts it may have closed these (`listener run 2>&-`): Python has None for them then, and the next
    # connection would get their number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115

"""`listener run`, `demo` and `simulator`: the verbs that stay."""

import asyncio
import gc
import resource
from pathlib import Path

import click

from listener.cli.common import asynchronous, fail, rules_option
from listener.errors import UsageError
from listener.logs import configure
from listener.model import Mode
from listener.settings import read_settings
from listener.words import counted


@click.command()
@click.option("--once", is_flag=True, help="Match and send all that is due, then exit.")
@click.option(
    "--mode", type=click.Choice([m.value for m in Mode]), help="Where messages go [LISTENER_MODE, else live]."
)
@rules_option
@asynchronous
async def run(once: bool, mode: str | None, rules_path: Path | None) -> None:
    """The daemon: match changes and send messages, until SIGTERM or Ctrl-C."""
    from listener.service import Service, seconds_to_stop, stop_on_signals

    settings = read_settings(rules=rules_path, mode=Mode(mode) if mode else None)
    configure(settings.log)
    # A core file would hold texts, phones and tokens.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    daemon = Service(settings=settings)
    stop_on_signals(daemon.stopping, daemon.reload, seconds_to_stop(settings))
    # What is imported stays: the garbage collector need not look through it for ever, some 50 ms each time.
    gc.freeze()
    left = await daemon.run(once=once)
    if left.unreachable:
        raise fail(f"messages of {counted(left.unreachable, 'thread')} are due, and CareSoft is out of reach", 4)
    if left.stopped:
        why = "are due and cannot be sent: their account is paused, or not in the rules; see `listener status`"
        if settings.mode is Mode.SHADOW:
            why = "are due, and in the mode shadow nothing is sent"
        raise fail(f"messages of {counted(left.stopped, 'thread')} {why}", 1)


@click.command()
@click.option("--once", is_flag=True, help="Play the script once, check every promise, exit 0 only if all hold.")
@asynchronous
async def demo(once: bool) -> None:
    """Show the whole way on a throw-away PostgreSQL and gateway; Ctrl-C ends it."""
    from listener.demo import play, rehearse
    from listener.service import stop_on_signals

    configure("text", quiet=True)
    if not once:
        stopping = asyncio.Event()
        stop_on_signals(stopping)
        await play(click.echo, stopping)
        return
    faults = await rehearse(click.echo)
    if faults:
        raise fail("\n" + "\n".join(f"NOT AS IT SHOULD BE: {fault}" for fault in faults), 1)
    click.echo("\nall as it should be")


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="Primary port; 0 takes a free one."
)
@click.option(
    "--backup-port", type=click.IntRange(0, 65535), default=8091, show_default=True, help="The spare host's port."
)
@click.option("--domain", default="acme", show_default=True, help="The account's domain.")
@click.option("--token", default="demo-token", show_default=True, help="The token it asks for.")
@click.option("--service-id", type=int, default=12, show_default=True, help="The SMS service it knows.")
@click.option(
    "--per-second", type=click.IntRange(min=1), default=15, show_default=True, help="Calls in any sliding second."
)
@asynchronous
async def simulator(port: int, backup_port: int, domain: str, token: str, service_id: int, per_second: int) -> None:
    """The CareSoft API on this machine, for trying things out; control it under /_control/."""
    from listener.service import stop_on_signals
    from listener.simulator.gateway import GatewaySettings, serve

    if port and port == backup_port:
        raise UsageError("--port and --backup-port must differ")
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    settings = GatewaySettings(domain=domain, token=token, services={service_id: "SMS"}, per_second=per_second)
    await serve(settings, port, backup_port, stopping, click.echo)

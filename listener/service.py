"""Builds the whole daemon and runs it: one tree of tasks, stopped in the direction of the data.

A task that dies takes the process with it, so that a half-alive daemon does not exist.
"""

import asyncio
import hashlib
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from listener import accounts, capture, migrations
from listener.caresoft import CareSoft
from listener.database import Connection, connect
from listener.delivery import Delivery
from listener.doorbell import Doorbell
from listener.errors import ListenerError
from listener.matching import Matcher
from listener.model import Change, Mode
from listener.queries import load
from listener.rules import parse, read_text
from listener.rules.ruleset import RuleSet, Verdict, compile_rules
from listener.settings import Settings
from listener.settling import Result
from listener.upkeep import Upkeep

log = structlog.get_logger()
SQL = load("rules")

# seconds after the last request must have ended, to write the outcomes down
_SETTLE_MARGIN = 5.0


@dataclass(slots=True)
class Observer:
    """Whoever wants to see what happens: the demo's terminal, a test."""

    on_change: Callable[[Change, Sequence[Verdict]], None] | None = None
    on_outcome: Callable[[Result], None] | None = None


@dataclass(slots=True)
class Service:
    """One replica. `run` returns when it is told to stop and everything in flight has been written down."""

    settings: Settings
    observer: Observer = field(default_factory=Observer)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, *, once: bool = False) -> int:
        """Runs until `stopping`, or `once`: until nothing is due. Returns how many messages were left waiting.

        Raises `ListenerError` when the rules, the schema or a token is not as it must be to begin.
        """
        rules = await prepare(self.settings)
        replica = uuid4()
        log.info("started", replica=str(replica)[:8], rules=rules.version, mode=self.settings.mode.value)
        async with AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(CareSoft(self.settings.caresoft_url, self.settings.http_timeout))
            delivery = Delivery(self.settings, replica, gateway, self.observer.on_outcome)
            stack.push_async_callback(delivery.close)
            doorbell = Doorbell(self.settings)
            matcher = Matcher(self.settings, lambda: rules, doorbell, delivery.wake, self.observer.on_change)
            stack.push_async_callback(matcher.close)
            upkeep = Upkeep(self.settings, replica, lambda: rules, delivery.give)
            stack.push_async_callback(upkeep.close)
            async with asyncio.TaskGroup() as tasks:
                settling = tasks.create_task(delivery.settle_loop(), name="settle")
                listening = tasks.create_task(doorbell.listen(), name="listen")
                tasks.create_task(upkeep.run(self.stopping), name="upkeep")
                if once:
                    tasks.create_task(self._until_done(matcher, delivery), name="once")
                else:
                    tasks.create_task(matcher.run(self.stopping), name="match")
                delivery.use(tasks, rules.rules.accounts, self.stopping)
                self.ready.set()
                await self.stopping.wait()
                listening.cancel()
                # Requests in flight end by their own time-out; then their outcomes are written down.
                if not await delivery.drain(self.settings.http_timeout + _SETTLE_MARGIN):
                    log.warning("stopped_early", effect="what was being sent will be shown as unknown")
                settling.cancel()
        log.info("stopped", replica=str(replica)[:8])
        return delivery.stopped

    async def _until_done(self, matcher: Matcher, delivery: Delivery) -> None:
        while await matcher.look():
            pass
        await delivery.until_nothing_is_due()
        self.stopping.set()


async def prepare(settings: Settings) -> RuleSet:
    """Reads the rules and makes sure that database and accounts are fit for them."""
    source = read_text(settings.rules)
    rules = parse(source, str(settings.rules))
    if settings.mode is not Mode.SHADOW:
        for name, account in rules.accounts.items():
            accounts.access(name, account)
    conn = await connect(settings, "start")
    try:
        if settings.auto_install:
            await install(conn, compile_rules(rules), settings)
        elif await migrations.pending(conn):
            raise ListenerError("the database has no `listener` schema of this version; run `listener db install` once")
        version = await register(conn, source)
        compiled = compile_rules(rules, version)
        await accounts.add(conn, list(rules.accounts))
        for step in await capture.differences(conn, await captures(conn, compiled, settings)):
            log.warning("capture_differs", step=step.step.value, what=step.what, cure="run `listener db install`")
    finally:
        await conn.close()
    return compiled


async def register(conn: Connection, source: str) -> int:
    """The database's number for this text of the rules, now in force."""
    args = {"sha256": hashlib.sha256(source.encode()).hexdigest(), "source": source}
    row = await (await conn.execute(SQL["register"], args)).fetchone()
    assert row is not None
    await conn.execute(SQL["in_force"], {"version": row["version"]})
    return int(row["version"])


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


async def install(
    conn: Connection, rules: RuleSet, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> None:
    """Brings schema and triggers to what the rules want; doing it again does nothing."""
    for migration in await migrations.migrate(conn):
        say(f"migration {migration.name}")
    steps = await capture.differences(conn, await captures(conn, rules, settings))
    await capture.apply(conn, steps, say)


def stop_on_signals(stopping: asyncio.Event) -> None:
    """SIGINT and SIGTERM ask for an orderly stop; the second one ends the process at once.

    Ended at once, requests in flight are found by the sweep and shown as unknown: never lost, never repeated.
    """

    def asked() -> None:
        if stopping.is_set():
            raise SystemExit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)

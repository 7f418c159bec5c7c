"""Builds the whole daemon and runs it: one tree of tasks, stopped in the direction of the data.

A task that dies takes the process with it, so that a half-alive daemon does not exist.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from listener import route
from listener.calendar import Calendar
from listener.caresoft import CareSoft
from listener.database import LOST, Link
from listener.delivery import Delivery
from listener.doorbell import Doorbell
from listener.errors import ListenerError, OutOfReachError
from listener.lookout import Lookout
from listener.matching import Matcher
from listener.messages import Due
from listener.model import Change
from listener.notify import keep_telling
from listener.recheck import Recheck
from listener.reconcile import Reconciler
from listener.rulebook import Rulebook, open_rulebook
from listener.rules.judging import Verdict
from listener.settings import Settings
from listener.settling import Result
from listener.tasks import TaskTree
from listener.upkeep import Upkeep
from listener.web.health import Health
from listener.web.server import serve

log = structlog.get_logger()

# seconds after the last request must have ended: to write the outcomes down, and to be gone, whatever still hangs
_SETTLE_MARGIN = 4.0
_GONE_MARGIN = 5.0


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
    # set it to have the rules file looked at now
    reload: asyncio.Event = field(default_factory=asyncio.Event)
    # where it serves, `http://host:port`, once it does
    address: str | None = None

    async def run(self, *, once: bool = False) -> Due:
        """Runs until `stopping`, or `once`: until nothing is due that can be sent. Returns what was left due.

        Raises `ListenerError` when the rules, the schema or a token is not as it must be to begin.
        """
        replica = uuid4()
        async with AsyncExitStack() as stack:
            # one connection for all that happens every now and then
            background = Link(self.settings, "upkeep", lock_timeout="1s")
            stack.push_async_callback(background.close)
            async with background.use() as conn:
                await route.refuse_shared(conn, self.settings)
                if doubt := route.unverified(conn):
                    log.warning("database_not_verified", reason=doubt, cure=route.VERIFIED)
            book = await open_rulebook(self.settings, background)
            log.info("started", replica=str(replica)[:8], rules=book.current.version, mode=self.settings.mode.value)
            client = CareSoft(
                self.settings.caresoft_url,
                self.settings.http_timeout,
                spare=self.settings.caresoft_spare,
                private=self.settings.private_gateway,
            )
            gateway = await stack.enter_async_context(client)
            recheck = Recheck(self.settings, book)
            stack.push_async_callback(recheck.close)
            delivery = Delivery(self.settings, replica, gateway, recheck, self.observer.on_outcome)
            stack.push_async_callback(delivery.close)
            doorbell = Doorbell(self.settings)
            matcher = Matcher(self.settings, book, delivery.wake, self.observer.on_change, delivery)
            stack.push_async_callback(matcher.close)
            lookout = Lookout(matcher, doorbell)
            upkeep = Upkeep(background, replica, book, delivery.give, self.settings.retention)
            stack.push_async_callback(upkeep.close)
            calendar = Calendar(self.settings, book)
            stack.push_async_callback(calendar.close)
            reconciler = Reconciler(background, lambda: book.current.rules.accounts, gateway, delivery.give)
            health = Health(
                moved=lambda: {
                    "match": lookout.moved_at,
                    "upkeep": upkeep.moved_at,
                    "reconcile": reconciler.moved_at,
                    "rules": book.moved_at,
                    **delivery.moved(),
                },
                notes=lambda: {
                    "listening": doorbell.connected and not doorbell.deaf,
                    "rules": book.current.version,
                    "clock_ahead_s": None if upkeep.clock_ahead is None else round(upkeep.clock_ahead, 1),
                },
                ready=lambda: self.ready.is_set() and not self.stopping.is_set(),
            )
            if not once:
                self.address = await stack.enter_async_context(serve(self.settings, health))
            async with TaskTree(self.stopping) as tasks:
                settling = tasks.keep(delivery.settle_loop(), "settle")
                listening = tasks.keep(doorbell.listen(), "listen")
                tasks.keep(upkeep.run(self.stopping), "upkeep")
                if once:
                    tasks.keep(self._until_done(calendar, upkeep, matcher, delivery), "once")
                else:
                    tasks.keep(lookout.run(self.stopping), "match")
                    tasks.keep(reconciler.run(self.stopping), "reconcile")
                    tasks.keep(book.run(self.stopping, self.reload), "rules")
                    tasks.keep(calendar.run(self.stopping), "calendar")
                book.on_change = lambda rules: delivery.use(tasks, rules.rules.accounts, self.stopping)
                book.on_change(book.current)
                self.ready.set()
                if not once:
                    tasks.keep(self._keep_telling(health, book, lookout, delivery), "notify")
                await self.stopping.wait()
                listening.cancel()
                # Requests in flight end by their own time-out; then their outcomes are written down.
                if not await delivery.drain(self.settings.http_timeout + _SETTLE_MARGIN):
                    log.warning("stopped_early", effect="what was being sent will be shown as unknown")
                settling.cancel()
        log.info("stopped", replica=str(replica)[:8])
        if book.superseded is not None:
            raise ListenerError(book.superseded)
        return delivery.due

    async def _keep_telling(self, health: Health, book: Rulebook, lookout: Lookout, delivery: Delivery) -> None:
        def turned() -> dict[str, float]:
            # The settler is left out: it has no more to say than these while the database is away.
            return {"match": lookout.turned_at, **delivery.turned()}

        def status() -> str:
            fine = f"rules version {book.current.version}, mode {self.settings.mode}"
            return "; ".join(health.report()["reasons"]) or fine

        await keep_telling(self.stopping, turned, status)

    async def _until_done(self, calendar: Calendar, upkeep: Upkeep, matcher: Matcher, delivery: Delivery) -> None:
        try:
            await calendar.look()
            # What an earlier run left behind is part of what is due.
            await upkeep.round()
            while await matcher.look():
                pass
            await delivery.until_nothing_is_due()
            # The tickets that came of it are due in the ERP.
            await upkeep.round()
        except LOST:
            # The daemon would wait for it to come back; this is told, and whoever asked may ask again.
            raise OutOfReachError("the connection to the database was lost") from None
        self.stopping.set()


def seconds_to_stop(settings: Settings) -> float:
    """Within which an orderly stop has ended, whatever hangs."""
    return settings.http_timeout + _GONE_MARGIN


def stop_on_signals(stopping: asyncio.Event, reload: asyncio.Event | None = None, seconds: float | None = None) -> None:
    """SIGINT and SIGTERM ask for an orderly stop; the second one ends the process at once, and so does the end of
    `seconds`. SIGHUP sets `reload`.

    Ended at once, requests in flight are found by the sweep and shown as unknown: never lost, never repeated.
    """

    def asked() -> None:
        if stopping.is_set():
            # Not by an exception: whatever hangs on a database that does not answer would be waited for.
            os._exit(130)
        stopping.set()
        if seconds is not None:
            # A thread, since it may be the loop itself that hangs.
            limit = threading.Timer(seconds, os._exit, [1])
            limit.daemon = True
            limit.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, reload.set)

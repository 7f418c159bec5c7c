"""When to look at the outbox: at every ring; again and again while the ERP is busy; and now and then, rung or not."""

import asyncio
from time import monotonic

import structlog

from listener.database import LOST
from listener.doorbell import Doorbell, Promise
from listener.errors import ListenerError, describe
from listener.matching import Matcher
from listener.queries import load
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("outbox")

# look this often, rung or not
POLL = 1.0
# a look that finds more than this many changes, or some so soon (seconds) after others, shows that the ERP is busy:
# promise instead of being rung
BUSY = 3
SOON = 0.01
# seconds that a promise lasts, between glances while it lasts, and without a change until it is let lapse
PROMISE = 0.25
GLANCE = 0.001
LINGER = 0.1
# seconds after a change that came alone in which only a ring makes it look again
LOOK = 0.004


class Lookout:
    """Has a matcher look whenever there is reason to."""

    def __init__(self, matcher: Matcher, doorbell: Doorbell) -> None:
        self._matcher = matcher
        self._doorbell = doorbell
        self._link = matcher.link
        self._promise = Promise(matcher.link)
        # when the database last answered, and when it last failed to
        self.moved_at = self._failed_at = monotonic()

    @property
    def turned_at(self) -> float:
        """When it last came round, in vain or not; monotonic."""
        return max(self.moved_at, self._failed_at)

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping`."""
        while not stopping.is_set():
            try:
                await self._watch(stopping)
            except (*LOST, ListenerError) as error:
                failures = self._matcher.failed()
                self._failed_at = monotonic()
                log.warning("match_failed", error=describe(error))
                await wait_for_any(stopping, seconds=min(2.0, 0.25 * 2 ** min(failures, 5)))

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Busy: promise and poll. Then: let it lapse, and look until nobody can trust it any more. Then: sleep.

        `horizon` is None while every change since would ring.
        """
        horizon: int | None = await self._promise.lapse()
        lapsed_at = worked_at = looked_at = monotonic()
        vain, sure = 0, True
        while not stopping.is_set():
            sure = sure or self._doorbell.rung.is_set()
            self._doorbell.rung.clear()
            # Asked before the look: what those transactions wrote can be seen by it.
            settled = horizon is None or await self._promise.passed(horizon)
            # A look is a transaction. Where nothing told of a change one statement finds out whether it is worth it.
            found = await self._matcher.look() if sure or await self._anything() else 0
            self.moved_at, sure = monotonic(), False
            if found is None:
                # What the other replica took may lack the newest change, so its look does not stand for ours.
                await wait_for_any(stopping, seconds=0.02)
            elif found:
                soon, worked_at, vain = monotonic() - worked_at < SOON, monotonic(), 0
                if found > BUSY or soon or self._promise.given:
                    await self._promise.extend(PROMISE)
                    horizon = None
                    # Few changes are few messages, which are on their way: let them go first.
                    sure = found > BUSY or await self._glance(worked_at + LINGER, stopping)
                else:
                    await wait_for_any(self._doorbell.rung, stopping, seconds=LOOK)
            elif self._promise.given and monotonic() - worked_at < LINGER:
                await self._promise.extend(PROMISE)
                sure = await self._glance(worked_at + LINGER, stopping)
            elif self._promise.given or not await self._promise.sign_of_life():
                horizon, lapsed_at = await self._promise.lapse(), monotonic()
            elif not settled:
                # A change in a transaction that has been open for long can wait a little of that.
                await wait_for_any(
                    self._doorbell.rung, stopping, seconds=min(0.25, max(LOOK, (monotonic() - lapsed_at) / 20))
                )
            else:
                horizon = None
                # Any role may ring: rings that bring nothing are answered ever more slowly, down to ten times a second.
                vain, looked_at = vain + 1 if monotonic() - looked_at < 1 else 0, monotonic()
                await wait_for_any(stopping, seconds=min(0.1, 0.0005 * 2 ** min(vain, 8)))
                await self._sleep(stopping)

    async def _glance(self, until: float, stopping: asyncio.Event) -> bool:
        """Waits for a change, at most until `until`, which is before the promise ends; whether one came."""
        while not stopping.is_set() and monotonic() < until:
            await asyncio.sleep(GLANCE)
            if await self._anything():
                return True
        return False

    async def _anything(self) -> bool:
        async with self._link.use() as conn:
            row = await (await conn.execute(SQL["glance"], {})).fetchone()
        return bool(row and row["anything"])

    async def _sleep(self, stopping: asyncio.Event) -> None:
        """Until it rings, until a glance once a second finds something all the same, or until `stopping`."""
        alive = True
        while alive and not stopping.is_set():
            await self._doorbell.self_test(self._link)
            await wait_for_any(self._doorbell.rung, stopping, seconds=POLL)
            if self._doorbell.rung.is_set():
                return
            anything = await self._anything()
            self.moved_at = monotonic()
            alive = not anything and await self._promise.sign_of_life()

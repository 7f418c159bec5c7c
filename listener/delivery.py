"""Lease → POST → settle. Any number of replicas; nothing is remembered in the process but answers on their way to the
database.

One loop per account takes permits at the account's pace; each permit is one task and at most one POST; one loop writes
the outcomes down in batches.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

import structlog

from listener import accounts, messages
from listener.caresoft import Access, CareSoft
from listener.database import LOST, Connection, Link
from listener.errors import ListenerError, OutOfReachError, describe
from listener.model import Lease, NotSent
from listener.rules import Account
from listener.settings import Settings
from listener.settling import Result, settle
from listener.waiting import wait_for_any

log = structlog.get_logger()

# requests on their way per account and replica: 12/s at 10 s an answer
IN_FLIGHT = 128
# a slot that is older than this when the first byte should leave is thrown away
SLOT_TOLERANCE = 0.1
# The sweep gives up on a permit this long after its request must have ended: as long again, within these bounds. It is
# for slow storage of the outcome, so nothing of it need be waited for when requests are given little time.
DEADLINE_MARGIN = 2.0, 30.0
# without a hint, look for work this often
POLL = 1.0
_RECONNECT = 0.5
# permits taken, and outcomes written, in one transaction
LEASE_BATCH = 32
SETTLE_BATCH = 200


class Delivery:
    """Sends what is due for the accounts it is given; `on_outcome` hears of each outcome once it is written down."""

    def __init__(
        self,
        settings: Settings,
        replica: UUID,
        gateway: CareSoft,
        on_outcome: Callable[[Result], None] | None = None,
    ) -> None:
        self._settings = settings
        self._replica = replica
        self._gateway = gateway
        self._on_outcome = on_outcome
        self._leasing = Link(settings, "lease")
        self._settling = Link(settings, "settle")
        self._outcomes: asyncio.Queue[Result | _LostLease] = asyncio.Queue()
        self._in_flight: dict[str, int] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._accounts: dict[str, Account] = {}
        self._prints: dict[str, str] = {}
        self._said: set[str] = set()
        self._unsettled = 0
        self._asking = 0
        # messages that a pause kept from being sent, as last seen by `until_nothing_is_due`
        self.stopped = 0

    def use(self, tasks: asyncio.TaskGroup, rules_accounts: Mapping[str, Account], stopping: asyncio.Event) -> None:
        """Takes over the accounts of a new rule set: one loop each, as children of `tasks`."""
        self._accounts = dict(rules_accounts)
        for name in rules_accounts:
            self._wake.setdefault(name, asyncio.Event())
            self._in_flight.setdefault(name, 0)
            if name not in self._loops:
                loop = self._account_loop(name, tasks, stopping)
                self._loops[name] = tasks.create_task(loop, name=f"deliver {name}")

    def wake(self) -> None:
        """Something may be due: look now."""
        for event in self._wake.values():
            event.set()

    @property
    def idle(self) -> bool:
        """Nothing is on its way to the gateway or to the database."""
        return not self._asking and not any(self._in_flight.values()) and self._unsettled == 0

    async def until_nothing_is_due(self) -> None:
        """Returns when all that may be sent now has been sent and written down; what a pause stops stays waiting."""
        while True:
            async with self._settling.use() as conn:
                due = await messages.due(conn)
            if self.idle and not due.sendable:
                self.stopped = due.stopped
                return
            await asyncio.sleep(0.02)

    async def drain(self, seconds: float) -> bool:
        """Waits until no more permits are taken and all outcomes are written down; whether it got there in time."""
        end = monotonic() + seconds
        await asyncio.wait(self._loops.values(), timeout=seconds)
        while not self.idle and monotonic() < end:
            await asyncio.sleep(0.01)
        return self.idle

    async def close(self) -> None:
        await self._leasing.close()
        await self._settling.close()

    async def settle_loop(self) -> None:
        """Writes outcomes down until cancelled. What cannot be written now is kept and tried again."""
        while True:
            items = [await self._outcomes.get()]
            while not self._outcomes.empty() and len(items) < SETTLE_BATCH:
                items.append(self._outcomes.get_nowait())
            await self._settle(items)

    def give(self, result: Result) -> None:
        """Another's outcome to write down (the sweep's)."""
        self._unsettled += 1
        self._outcomes.put_nowait(result)

    async def _account_loop(self, name: str, tasks: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        wake = self._wake[name]
        while not stopping.is_set():
            wake.clear()
            room = IN_FLIGHT - self._in_flight[name]
            if room <= 0 or name not in self._accounts:
                await wait_for_any(wake, stopping, seconds=POLL)
                continue
            self._asking += 1
            try:
                work = await self._lease(name, min(room, LEASE_BATCH))
                for lease in work.look.leases:
                    self._in_flight[name] += 1
                    self._unsettled += 1
                    tasks.create_task(self._send(lease, work), name=f"send {lease.message_id}")
            except (*LOST, OutOfReachError) as error:
                self._say("lease_failed", name, error)
                await wait_for_any(stopping, seconds=_RECONNECT * (1 + random.random()))
                continue
            except ListenerError as error:
                self._say("account_unusable", name, error)
                await wait_for_any(stopping, seconds=POLL)
                continue
            finally:
                self._asking -= 1
            self._said.discard(name)
            await self._rest(work.look, wake, stopping)

    async def _rest(self, look: messages.Look, wake: asyncio.Event, stopping: asyncio.Event) -> None:
        """Waits until the account may send and something is due; a wake cannot hasten the pace, only the work."""
        if look.slot_in > 0:
            await wait_for_any(stopping, seconds=min(look.slot_in, POLL))
        elif not look.leases:
            due_in = POLL if look.due_in is None else look.due_in
            await wait_for_any(wake, stopping, seconds=min(max(due_in, 0.005), POLL))

    async def _lease(self, name: str, want: int) -> "_Work":
        account = self._accounts[name]
        access = accounts.access(name, account)
        shortest, longest = DEADLINE_MARGIN
        margin = min(longest, max(shortest, self._settings.http_timeout))
        token = secrets.randbits(62)
        async with self._leasing.use() as conn:
            if self._prints.get(name) != (mark := accounts.token_print(access.token)):
                await accounts.new_token(conn, name, access.token)
                self._prints[name] = mark
            started = monotonic()
            try:
                look = await messages.lease(
                    conn,
                    account=name,
                    token=token,
                    replica=self._replica,
                    rate=account.rate.per_second,
                    want=want,
                    deadline=self._settings.http_timeout + margin,
                )
            except LOST:
                # Perhaps committed, certainly not used: to be said as soon as the database can be asked again.
                self._unsettled += 1
                self._outcomes.put_nowait(_LostLease(token=token))
                raise
        return _Work(look=look, access=access, not_after=started + SLOT_TOLERANCE)

    async def _send(self, lease: Lease, work: "_Work") -> None:
        began = monotonic()
        outcome = await self._gateway.send_sms(
            work.access, phone=lease.phone, text=lease.text, ticket=lease.ticket, not_after=work.not_after
        )
        self._in_flight[lease.account] -= 1
        if self._in_flight[lease.account] == IN_FLIGHT - 1:
            self._wake[lease.account].set()
        ms = round((monotonic() - began) * 1000)
        mark = accounts.token_print(work.access.token)
        self._outcomes.put_nowait(Result(lease=lease, outcome=outcome, ms=ms, token_print=mark))

    async def _settle(self, items: "list[Result | _LostLease]") -> None:
        while True:
            try:
                async with self._settling.use() as conn:
                    results: list[Result] = []
                    for item in items:
                        results += [item] if isinstance(item, Result) else await _not_sent(conn, item)
                    if results:
                        await settle(conn, results, random.random)
                break
            except (*LOST, OutOfReachError) as error:
                self._say("settle_failed", "settle", error)
                await asyncio.sleep(_RECONNECT * (1 + random.random()))
        self._said.discard("settle")
        self._unsettled -= len(items)
        self.wake()
        if self._on_outcome is not None:
            for result in results:
                self._on_outcome(result)

    def _say(self, event: str, about: str, error: BaseException) -> None:
        """Once per failure that goes on, not once per try."""
        if about not in self._said:
            self._said.add(about)
            log.warning(event, about=about, error=describe(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What one call of lease brought, with what is needed to use it by the monotonic time `not_after`."""

    look: messages.Look
    access: Access
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _LostLease:
    """A call of lease whose COMMIT was not confirmed: whatever it armed is not going to be sent."""

    token: int


async def _not_sent(conn: Connection, lost: _LostLease) -> list[Result]:
    outcome = NotSent(cause="the lease was not confirmed by the database")
    return [Result(lease=lease, outcome=outcome) for lease in await messages.leased(conn, lost.token)]

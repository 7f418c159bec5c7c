"""Lease → POST → settle. Any number of replicas; nothing is remembered in the process but answers on their way to the
database.

One loop per account takes permits at the account's pace; each permit is one task and at most one POST; one loop writes
the outcomes down in batches.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from uuid import UUID

import structlog

from listener import accounts, messages
from listener.caresoft import Access, CareSoft
from listener.database import BY_INDEX, LOST, REST, Link
from listener.errors import ListenerError, OutOfReachError, describe
from listener.identity import Guard
from listener.model import Lease, Mode, NotSent
from listener.recheck import Recheck
from listener.rules import Account
from listener.senders import IN_FLIGHT, UNWRITTEN, Sender, Work
from listener.settings import Settings
from listener.settling import Result, settle
from listener.tasks import TaskTree
from listener.waiting import wait_for_any

log = structlog.get_logger()

# The sweep gives up on a permit this long after its request must have ended: as long again, within these bounds. It is
# for slow storage of the outcome, so nothing of it need be waited for when requests are given little time.
DEADLINE_MARGIN = 2.0, 30.0
# without a hint, look for work this often
POLL = 1.0
_RECONNECT = 0.5
# A transaction costs as much as several requests, whatever it is for: at full speed there are so many seconds between
# two of a kind. Less than `messages.SLACK`, so that no slot is lost.
LULL = 0.01
# outcomes written in one transaction
SETTLE_BATCH = 200
# for so long a COMMIT whose answer was lost may still come through: locks are waited for no longer than 10 s
_LATE_COMMIT = 20.0


class Delivery:
    """Sends what is due for the accounts it is given; `on_outcome` hears of each outcome once it is written down."""

    def __init__(
        self,
        settings: Settings,
        replica: UUID,
        gateway: CareSoft,
        recheck: Recheck,
        on_outcome: Callable[[Result], None] | None = None,
    ) -> None:
        self._settings = settings
        self._replica = replica
        self._gateway = gateway
        self._recheck = recheck
        self._on_outcome = on_outcome
        # seconds that a permit outlives the longest request that begins at once
        shortest, longest = DEADLINE_MARGIN
        self._margin = min(longest, max(shortest, settings.http_timeout))
        # whoever takes permits has it ask each new connection
        self.guard = Guard()
        self._leasing = Link(settings, "lease", self.guard.ask, **BY_INDEX)
        self._settling = Link(settings, "settle", None, REST, **BY_INDEX)
        self._outcomes: asyncio.Queue[Result] = asyncio.Queue()
        self._senders: dict[str, Sender] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._tasks: TaskTree | None = None
        self._stopping = asyncio.Event()
        # permits that others are asking for, by their token
        self._offers: dict[int, tuple[Sender, Work]] = {}
        # outcomes to come or not written down
        self._unsettled = 0
        # since when outcomes are being written down, if they are
        self._writing_since: float | None = None
        # as last seen by `until_nothing_is_due`
        self.due = messages.Due()

    def use(self, tasks: TaskTree, rules_accounts: Mapping[str, Account], stopping: asyncio.Event) -> None:
        """Takes over the accounts of a new rule set: one loop each, as children of `tasks`."""
        self._tasks, self._stopping = tasks, stopping
        # In shadow what is made does not wait to be sent; but something may wait since before, or for a person's retry.
        sends = self._settings.mode is not Mode.SHADOW
        for name in self._senders.keys() | rules_accounts.keys():
            sender = self._senders.setdefault(name, Sender())
            sender.account, sender.access = rules_accounts.get(name) if sends else None, None
            if sender.account is not None:
                sender.may_be_unwritten = min(IN_FLIGHT, max(UNWRITTEN, int(sender.account.rate.per_second * 2 / 3)))
            if name not in self._loops:
                loop = self._account_loop(name, sender, stopping)
                self._loops[name] = tasks.keep(loop, f"deliver {name}")

    def wake(self) -> None:
        """Something may be due: look now."""
        for sender in self._senders.values():
            sender.wake.set()

    def offer(self, account: str, want: int) -> messages.Terms | None:
        """Terms for whoever can take `want` permits in a transaction of its own; None if the account is not ready to
        send so much.

        What came of them must be told: `take` once it is committed, `withdraw` if that is not known.
        """
        sender = self._senders.get(account)
        if self._stopping.is_set() or sender is None or sender.account is None or sender.room < want:
            return None
        if sender.access is None or monotonic() < sender.at_once_from:
            return None
        terms = self._terms(account, sender.account, secrets.randbits(62), want)
        self._offers[terms["token"]] = sender, self._work(sender.access)
        sender.asked += terms["want"]
        return terms

    def take(self, terms: messages.Terms, armed: messages.Armed) -> None:
        """Sends what was armed on these terms."""
        self.guard.saw(armed.durable)
        sender, work = self._end_offer(terms)
        self._start(sender, armed.leases, work)
        # Until its loop has looked: the next slot, or, if nothing could go, whatever stood in its way.
        soon = len(armed.leases) * messages.spacing(terms["rate"]) - messages.SLACK
        sender.at_once_from = monotonic() + (soon if armed.leases else POLL)

    def withdraw(self, terms: messages.Terms) -> None:
        """Perhaps something was armed on these terms, perhaps not: it is not sent."""
        self._end_offer(terms)
        self._start_disowning(terms["token"], terms["account"])

    def _end_offer(self, terms: messages.Terms) -> tuple[Sender, Work]:
        sender, work = self._offers.pop(terms["token"])
        if sender.room <= 0:
            sender.wake.set()
        sender.asked -= terms["want"]
        return sender, work

    def moved(self) -> dict[str, float]:
        """The monotonic time at which each loop last moved; one that only waits for work moves all the time, one whose
        token cannot be had does not."""
        loops = {f"deliver {name}": sender.moved_at for name, sender in self._senders.items()}
        return {**loops, "settle": monotonic() if self._writing_since is None else self._writing_since}

    def turned(self) -> dict[str, float]:
        """The monotonic time at which each account's loop last came round, in vain or not."""
        return {f"deliver {name}": sender.turned_at for name, sender in self._senders.items()}

    @property
    def idle(self) -> bool:
        """Nothing is on its way to the gateway or to the database."""
        return not self._unsettled and not any(sender.asked for sender in self._senders.values())

    async def until_nothing_is_due(self) -> None:
        """Returns when all that may be sent now has been sent and written down; what is paused, or goes by an account
        that the rules do not have, stays waiting."""
        asked_at = float("-inf")
        while True:
            # While something is on its way only to learn that the database is gone: all that is due is counted for it.
            if self.idle or monotonic() - asked_at > POLL:
                asked_at = monotonic()
                async with self._settling.use() as conn:
                    ours = [name for name, sender in self._senders.items() if sender.account is not None]
                    self.due = await messages.due(conn, ours)
                if self.idle and not self.due.sendable:
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
            results = [await self._outcomes.get()]
            while not self._outcomes.empty() and len(results) < SETTLE_BATCH:
                results.append(self._outcomes.get_nowait())
            await self._settle(results)
            if len(results) > 1:
                await asyncio.sleep(LULL)

    def give(self, result: Result) -> None:
        """Another's outcome to write down (the sweep's)."""
        self._unsettled += 1
        self._outcomes.put_nowait(result)

    async def _account_loop(self, name: str, sender: Sender, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            sender.wake.clear()
            sender.turned_at = monotonic()
            if sender.account is None or sender.room <= 0:
                sender.moved_at = sender.turned_at
                await wait_for_any(sender.wake, stopping, seconds=POLL)
                continue
            token = secrets.randbits(62)
            want = min(sender.room, sender.batch)
            sender.asked += want
            try:
                look, work = await self._lease(name, sender, sender.account, token, want)
                self._start(sender, look.leases, work)
                behind = look.due_in is not None and look.due_in <= 0
                sender.at_once_from = monotonic() + (POLL if behind else look.slot_in - messages.SLACK)
            except (*LOST, OutOfReachError) as error:
                log.warning("lease_failed", about=name, error=describe(error))
                if isinstance(error, LOST):
                    self._start_disowning(token, name)
                await wait_for_any(stopping, seconds=_RECONNECT * (1 + random.random()))
                continue
            except ListenerError as error:
                log.warning("account_unusable", about=name, error=describe(error))
                sender.access = None
                await wait_for_any(stopping, seconds=POLL)
                continue
            finally:
                sender.asked -= want
            await self._rest(look, sender, stopping)
            idle = look.slot_in >= POLL or look.due_in is None or look.due_in >= POLL
            sender.quiet = idle and not sender.wake.is_set()

    async def _rest(self, look: messages.Look, sender: Sender, stopping: asyncio.Event) -> None:
        """Waits until the account may send and something is due; a wake cannot hasten the pace, only the work."""
        if look.slot_in > 0:
            await wait_for_any(stopping, seconds=min(look.slot_in, POLL))
        elif look.leases and look.due_in is not None and look.due_in <= 0:
            # More is due; but what was just leased is to be written first.
            await asyncio.sleep(LULL if sender.room < sender.batch else 0)
        else:
            due_in = POLL if look.due_in is None else look.due_in
            await wait_for_any(sender.wake, stopping, seconds=min(max(due_in, 0.005), POLL))

    async def _lease(
        self, name: str, sender: Sender, account: Account, token: int, want: int
    ) -> tuple[messages.Look, Work]:
        access = accounts.access(name, account)
        sender.moved_at = monotonic()
        async with self._leasing.use() as conn:
            if sender.token_print != (mark := accounts.token_print(access.token)):
                await accounts.new_token(conn, name, access.token)
                sender.token_print = mark
            if sender.account is account:  # and no newer rules meanwhile
                sender.access = access
            work = self._work(access)
            terms = self._terms(name, account, token, want)
            look = await messages.look(conn, **terms) if sender.quiet else None
            if look is None or look.due:
                look = await messages.lease(conn, **terms)
        self.guard.saw(look.durable)
        return look, work

    def _terms(self, name: str, account: Account, token: int, want: int) -> messages.Terms:
        return messages.Terms(
            account=name,
            token=token,
            replica=self._replica,
            rate=account.rate.per_second,
            want=want,
            deadline=self._settings.http_timeout + self._margin,
        )

    def _work(self, access: Access) -> Work:
        return Work(access=access, asked_at=monotonic(), margin=self._margin)

    def _start(self, sender: Sender, leases: Sequence[Lease], work: Work) -> None:
        assert self._tasks is not None
        for lease in leases:
            sender.in_flight += 1
            sender.unwritten += 1
            self._unsettled += 1
            self._tasks.start(self._send(sender, lease, work), f"send {lease.message_id}")

    def _start_disowning(self, token: int, account: str) -> None:
        assert self._tasks is not None
        # From now on: nothing is idle while this is not known.
        self._unsettled += 1
        self._tasks.start(self._disown(token), f"disown {account}")

    async def _disown(self, token: int) -> None:
        """Says of what an unconfirmed lease armed that it was not sent, should its COMMIT have come through; also after
        a long time without the database, for nobody else can know."""
        end, looked = monotonic() + _LATE_COMMIT, False
        try:
            while monotonic() < end or not (looked or self._stopping.is_set()):
                looked = False
                try:
                    async with self._settling.use() as conn:
                        armed = await messages.leased(conn, token)
                    looked = True
                except (*LOST, OutOfReachError) as error:
                    log.warning("settle_failed", about="settle", error=describe(error))
                    armed = []
                for lease in armed:
                    self.give(Result(lease=lease, outcome=NotSent(cause="the database did not confirm the lease")))
                if armed or (looked and self._stopping.is_set()):
                    return
                await asyncio.sleep(_RECONNECT)
        finally:
            self._unsettled -= 1

    async def _send(self, sender: Sender, lease: Lease, work: Work) -> None:
        unwritten = True

        def in_time() -> bool:
            nonlocal unwritten
            if sender.room <= 0:
                sender.wake.set()
            unwritten = False
            sender.unwritten -= 1
            age = monotonic() - work.asked_at
            return sender.punctuality.in_time(age) and age < work.margin

        began = monotonic()
        outcome = await self._recheck.outdated(lease) or await self._gateway.send_sms(
            work.access, phone=lease.phone, text=lease.text, ticket=lease.ticket, in_time=in_time
        )
        ms = round((monotonic() - began) * 1000)
        if sender.room <= 0:
            sender.wake.set()
        sender.in_flight -= 1
        sender.unwritten -= unwritten
        mark = accounts.token_print(work.access.token)
        self._outcomes.put_nowait(Result(lease=lease, outcome=outcome, ms=ms, token_print=mark))

    async def _settle(self, results: list[Result]) -> None:
        self._writing_since = monotonic()
        while True:
            try:
                async with self._settling.use() as conn:
                    more = await settle(conn, results, random.random)
                break
            except (*LOST, OutOfReachError) as error:
                log.warning("settle_failed", about="settle", error=describe(error))
                await asyncio.sleep(_RECONNECT * (1 + random.random()))
        self._writing_since = None
        self._unsettled -= len(results)
        if more:
            self.wake()
        if self._on_outcome is not None:
            for result in results:
                self._on_outcome(result)

"""The bench: a world, an ERP driver, replicas under a supervisor, the deeds of a plan, and the evidence at the end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg

from listener.database import connect
from listener.errors import OutOfReachError
from listener.simulator.gateway import GatewaySettings
from listener.simulator.postgres import Server
from tests.faults.checker import Acceptance, Attempt, Evidence, Message, broken
from tests.faults.plan import Deed, Step
from tests.support.erp_driver import CANARY, PHONE, ErpDriver
from tests.support.world import Replica, World, open_world, rules_text

RATE = 12.0
HTTP_TIMEOUT = 3.0
# our own connections; the tests' and the ERP's are left alone
OURS = "datname = current_database() AND application_name LIKE 'listener %%' AND application_name <> 'listener test'"
# no database, no schema: a supervisor starts it again
OUT_OF_REACH = 4
_TICK = 0.02


@dataclass(slots=True)
class Bench:
    """Everything of one case. `erp` writes, `world` watches."""

    world: World
    erp: ErpDriver
    server: Server | None = None
    deadline: timedelta = timedelta(seconds=2 * HTTP_TIMEOUT)
    exits: list[int] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    _fleet: list[Replica] = field(default_factory=list)
    _killed: set[int] = field(default_factory=set)
    _crashing: asyncio.Lock = field(default_factory=asyncio.Lock)

    # (from, to) on the gateway's clock: times when the bench itself stood still, so that arrivals were seen late
    stalls: list[tuple[float, float]] = field(default_factory=list)

    async def watch_itself(self) -> None:
        """Notes until cancelled when this process did not come to run."""
        now = self.world.gateway.state.now
        while True:
            before = now()
            await asyncio.sleep(_TICK)
            if now() - before > 2 * _TICK:
                self.stalls.append((before + _TICK, now()))

    # -- replicas

    @asynccontextmanager
    async def fleet(self, size: int, **environment: str) -> AsyncIterator[list[Replica]]:
        """So many replicas, each started again 0.3 s after its end; stopped politely afterwards."""
        stopping = asyncio.Event()
        self._fleet = [await self.world.replica(wait=True, **environment) for _ in range(size)]
        async with asyncio.TaskGroup() as tasks:
            for number in range(size):
                tasks.create_task(self._keep(number, stopping, environment))
            try:
                yield self._fleet
            finally:
                stopping.set()
        for replica in self._fleet:
            replica.signal(signal.SIGCONT)
        await asyncio.gather(*(replica.stop() for replica in self._fleet))

    async def _keep(self, number: int, stopping: asyncio.Event, environment: dict[str, str]) -> None:
        asked = asyncio.ensure_future(stopping.wait())
        try:
            while not stopping.is_set():
                replica = self._fleet[number]
                ended = asyncio.ensure_future(replica.process.wait())
                await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    ended.cancel()
                    return
                if replica.pid not in self._killed and ended.result() != OUT_OF_REACH:
                    self.exits.append(ended.result())
                await asyncio.sleep(0.3)
                self._fleet[number] = await self.world.replica(wait=False, **environment)
        finally:
            asked.cancel()

    async def kill(self, replica: Replica) -> None:
        """`kill -9`; the supervisor starts another."""
        self._killed.add(replica.pid)
        await replica.kill()

    # -- deeds

    async def carry_out(self, plan: Iterable[Step]) -> None:
        """Does all of a plan; what lasts goes on beside the next steps, and has ended on return."""
        began = monotonic()
        async with asyncio.TaskGroup() as lasting:
            for step in plan:
                await asyncio.sleep(max(0.0, began + step.at - monotonic()))
                lasting.create_task(self._do(step))

    async def _do(self, step: Step) -> None:
        match step.deed:
            case Deed.KILL:
                await self.kill(self._fleet[step.who % len(self._fleet)])
            case Deed.FREEZE:
                await self.freeze(self._fleet[step.who % len(self._fleet)], step.lasts)
            case Deed.TERMINATE:
                await self.terminate(step.who)
            case Deed.TERMINATE_ALL:
                await self.terminate()
            case Deed.CRASH:
                await self.crash(step.lasts)

    async def freeze(self, replica: Replica, seconds: float) -> None:
        """SIGSTOP, SIGCONT."""
        replica.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        replica.signal(signal.SIGCONT)

    async def terminate(self, who: int | None = None, purpose: str = "%") -> int:
        """Ends one of our connections, or all; how many there were. A server that is away has none."""
        with suppress(psycopg.OperationalError):
            found = await self.world.rows(
                f"SELECT pid FROM pg_stat_activity WHERE {OURS} AND application_name LIKE %s ORDER BY pid",
                f"listener {purpose}",
            )
            pids = [row["pid"] for row in found]
            chosen = pids if who is None else [pids[who % len(pids)]] if pids else []
            for pid in chosen:
                await self.world.rows("SELECT pg_terminate_backend(%s)", pid)
            return len(chosen)
        return 0

    async def crash(self, seconds: float = 0.0) -> None:
        """The server crashes and starts again after `seconds`; our own connection comes back. One crash at a time."""
        assert self.server is not None
        async with self._crashing:
            await asyncio.to_thread(self.server.crash)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.server.start)
            await self.comes_back()

    async def comes_back(self) -> None:
        """Waits until the server takes connections again, and makes a new one for the bench itself."""
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.reconnect()
                    await self.world.one("SELECT 1 AS n")
                    return
                except (OutOfReachError, psycopg.OperationalError):
                    await asyncio.sleep(0.05)

    async def reconnect(self) -> None:
        """A new connection for the bench itself."""
        await self.world.db.close()
        self.world.db = await connect(replace(self.world.settings, database_url=self.erp.dsn), "test")

    # -- the end

    async def backlog(self) -> int:
        row = await self.world.one(
            """SELECT (SELECT count(*) FROM listener.outbox)
                    + (SELECT count(*) FROM listener.message WHERE state IN ('waiting', 'sending')) AS n"""
        )
        return int(row["n"])

    async def drain(self, seconds: float = 120.0, calm: float = 0.0) -> tuple[int, float | None]:
        """What waits now, and in how many seconds nothing did any more, nor began to for `calm` seconds."""
        before, began = await self.backlog(), monotonic()
        try:
            while True:
                await self.world.settled(began + seconds - monotonic())
                settled, sent = monotonic(), self._sent()
                # A permit that was given up may prove to be unused, and its message be sent after all.
                await asyncio.sleep(calm)
                if await self.backlog() == 0 and self._sent() == sent:
                    return before, settled - began
        except TimeoutError:
            print("what still waits:", *await self._left(), sep="\n")
            return before, None

    def _sent(self) -> int:
        """Requests that were to send something; unclear messages are looked for on their tickets for long after."""
        return sum(request.method == "POST" for request in self.world.gateway.state.requests)

    async def _left(self) -> list[dict[str, Any]]:
        """The accounts, and what waits by what it waits for."""
        return [
            *await self.world.rows("SELECT *, clock_timestamp() AS now FROM listener.account"),
            *await self.world.rows(
                """SELECT m.state, m.due_at > clock_timestamp() AS later, t.lease IS NOT NULL AS leased,
                          t.ticket_id IS NULL AS bare,
                          t.next_at <= clock_timestamp() AS due, t.next_at IS NULL AS asleep, m.reason, count(*) AS n,
                          min(t.next_at - clock_timestamp()) AS first, min(t.name) AS thread
                     FROM listener.message m JOIN listener.thread t ON t.id = m.thread_id
                    WHERE m.state IN ('waiting', 'sending') GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY n DESC LIMIT 20"""
            ),
            *await self.world.rows("SELECT count(*) AS outbox, min(at) AS oldest FROM listener.outbox"),
        ]

    async def evidence(self, backlog: int = 0, drained: float | None = 0.0, **more: object) -> Evidence:
        """Everything the checker asks for, from the ERP, the gateway, the product's tables and its output."""
        world, state = self.world, self.world.gateway.state
        failures = await world.one(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS n FROM listener.capture_failures"
        )
        waiting = await world.one("SELECT count(*) AS n FROM listener.outbox")
        committed = await world.rows("SELECT body FROM public.notes")
        messages = await world.messages()
        attempts = await world.rows(
            """SELECT m.text, m.thread, a.* FROM listener.attempt a
                 JOIN (SELECT id, text, thread FROM listener.message
                       UNION ALL SELECT id, text, thread FROM listener.finished) m ON m.id = a.message_id"""
        )
        # after the database, which may still move: what it knows of has arrived
        arrived = {request.seq: request.at for request in state.requests}
        found = Evidence(
            writes=self.erp.writes,
            committed=frozenset(row["body"] for row in committed),
            outbox=waiting["n"],
            messages=[
                Message(id=m["id"], text=m["text"], thread=m["thread"], state=m["state"], ticket=m["ticket_id"])
                for m in messages
            ],
            attempts=[
                Attempt(
                    text=a["text"],
                    thread=a["thread"],
                    n=a["n"],
                    leased_at=a["leased_at"],
                    ended_at=a["ended_at"],
                    took=None if a["ms"] is None else timedelta(milliseconds=a["ms"]),
                    outcome=a["outcome"],
                    ticket_sent=a["ticket_sent"],
                    ticket_received=a["ticket_received"],
                )
                for a in attempts
            ],
            acceptances=[
                Acceptance(
                    text=entry.content,
                    arrived=arrived[entry.request],
                    ticket_sent=entry.ticket_id_sent,
                    ticket=entry.ticket_id,
                )
                for entry in state.ledger
            ],
            arrivals=[request.at for request in state.requests],
            refusals=state.counters().statuses.get(429, 0),
            deadline=self.deadline,
            erp_errors=self.erp.errors,
            capture_failures=failures["n"],
            canaries={"phone": PHONE[1:], "text": CANARY, "token": state.settings.token, "key": self.erp.keys[0]},
            outputs={"the logs": world.logs(), **self.outputs},
            exits=self.exits,
            stalls=self.stalls,
            backlog=backlog,
            drained=drained,
        )
        return replace(found, **more)  # type: ignore[arg-type]

    async def verdict(self, seconds: float = 120.0, calm: float = 0.0, **more: object) -> Evidence:
        """Drains, and asserts that every promise holds; `more` replaces parts of the evidence."""
        backlog, drained = await self.drain(seconds, calm)
        found = await self.evidence(backlog, drained, **more)
        assert not (faults := broken(found)), "\n".join(faults)
        return found


@asynccontextmanager
async def open_bench(
    dsn: str,
    *,
    via: str | None = None,
    keys: int = 30,
    seed: int = 1,
    rate: float = RATE,
    server: Server | None = None,
    http_timeout: float = HTTP_TIMEOUT,
    latency: float = 0.0,
) -> AsyncIterator[Bench]:
    """A bench on an empty database; replicas connect by way of `via` if given, such as a proxy."""
    limits = GatewaySettings(latency=latency, per_second=15 if rate <= RATE else None)
    rules = rules_text(rate=f"{rate:g}/s")
    async with open_world(dsn, rules=rules, gateway=limits, http_timeout=http_timeout) as world:
        if via is not None:
            world.settings = replace(world.settings, database_url=via)
        names = [f"khoa-{seed}-{n:03d}" for n in range(keys)]
        erp = ErpDriver(dsn=dsn, keys=names, seed=seed)
        bench = Bench(world=world, erp=erp, server=server, deadline=timedelta(seconds=2 * http_timeout))
        watching = asyncio.create_task(bench.watch_itself(), name="watch the bench")
        try:
            yield bench
        finally:
            watching.cancel()


def descriptors(pid: int) -> int:
    """How many files, sockets and pipes a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208

"""The whole way on one machine: a throw-away PostgreSQL, the sample ERP, the simulator and the daemon.

`play` shows scripted and then endless business as it happens; `rehearse` runs the script once and checks every promise
that can be checked from outside.
"""

import asyncio
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, LiteralString

from listener import installation, queries
from listener.database import Connection, connect
from listener.messages import Due
from listener.model import Change
from listener.phones import mask_phone
from listener.rules import parse
from listener.rules.judging import Verdict
from listener.rules.ruleset import compile_rules
from listener.service import Observer, Service
from listener.settings import Settings
from listener.settling import Result, settlement
from listener.simulator import erp
from listener.simulator.gateway import Gateway, GatewaySettings, LedgerEntry, Port
from listener.simulator.postgres import Server

# the sample ERP's own people and things (sql/demo/erp.sql)
ACCOUNT, ORDER, ORDER_WITH_TICKET, TICKET = "A1", "DH1001", "DH1002", 9410022
_PATIENCE = 20.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Stage:
    """Everything that the demo runs on, while it runs."""

    settings: Settings
    erp: Connection
    gateway: Gateway
    observer: Observer
    say: Say
    _service: Service | None = None
    _task: "asyncio.Task[Due] | None" = None

    async def start(self) -> None:
        """Starts the daemon and waits until it is there."""
        self._service = Service(settings=self.settings, observer=self.observer)
        self._task = asyncio.create_task(self._service.run(), name="daemon")
        ready = asyncio.ensure_future(self._service.ready.wait())
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            ready.cancel()
            await self._task

    async def stop(self) -> None:
        """Stops it as SIGTERM would."""
        if self._service is not None and self._task is not None:
            self._service.stopping.set()
            await self._task
            self._service = self._task = None

    @property
    def daemon(self) -> "asyncio.Task[Due]":
        assert self._task is not None
        return self._task


@asynccontextmanager
async def stage(say: Say) -> AsyncIterator[Stage]:
    """A server, a sample ERP with listener installed beside it, and a gateway; all gone afterwards."""
    text = rules_text()
    # The first ticket is the one that the sample ERP already knows.
    gateway_settings = GatewaySettings(first_ticket_id=TICKET)
    os.environ["CARESOFT_TOKEN"] = gateway_settings.token
    say("starting a throw-away PostgreSQL ...")
    # as durable as a real one: the daemon warns of one that is not
    server = Server(settings={"fsync": "on"})
    await asyncio.to_thread(server.start)
    try:
        async with Gateway(gateway_settings) as gateway:
            _known_ticket(gateway)
            dsn = await asyncio.to_thread(server.create_database, "erp")
            rules_file = server.folder / "rules.yaml"
            rules_file.write_text(text, encoding="utf-8")
            settings = Settings(
                database_url=dsn,
                rules=rules_file,
                caresoft_url=gateway.url,
                # one for the whole demo, in which the daemon is started anew
                http=f"127.0.0.1:{_free_port()}",
                admin_token=secrets.token_hex(6),
            )
            async with await connect(settings, "demo") as conn:
                await conn.execute(queries.read("demo/erp.sql").encode())
                await installation.install(conn, compile_rules(parse(text, "rules.yaml")), settings)
                say(f"sample ERP with listener beside it; CareSoft simulator on {gateway.url}")
                show = Stage(settings=settings, erp=conn, gateway=gateway, observer=_narrator(say), say=say)
                try:
                    yield show
                finally:
                    await show.stop()
    finally:
        await asyncio.to_thread(server.close)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


async def play(say: Say, stopping: asyncio.Event) -> None:
    """Scripted business, then plausible business without end, until `stopping`."""
    async with stage(say) as show:
        await show.start()
        say(f"the page: http://{show.settings.http}  access token: {show.settings.admin_token}")
        await _script(show)
        say("from here on random business; Ctrl-C ends it")
        business = asyncio.create_task(_business(show, stopping))
        await asyncio.wait([business, show.daemon], return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        await business
        say("stopping: what is on its way is finished first")


async def rehearse(say: Say) -> list[str]:
    """Runs the script once; returns what was not as it should be."""
    async with stage(say) as show:
        await show.start()
        faults = await _script(show)
        say("")
        say("what arrived at the gateway:")
        for entry in show.gateway.state.ledger:
            say(f"  ticket {entry.ticket_id}  {mask_phone(entry.phone)}  {entry.content}")
        return faults


@dataclass(slots=True)
class _Scenes:
    """Plays scenes: deeds in the ERP, the SMS that should come of them, and no others."""

    show: Stage
    faults: list[str] = field(default_factory=list)

    async def play(
        self, title: str, deeds: Sequence[Coroutine[Any, Any, str]], expected: Sequence[tuple[str, str]]
    ) -> list[LedgerEntry]:
        """`expected` are (phone, words in the text), in order. Returns what arrived; faults go on the list."""
        self.show.say(f"\n- {title}")
        ledger = self.show.gateway.state.ledger
        before = len(ledger)
        for deed in deeds:
            self.show.say(f"    ERP: {await deed}")
        with suppress(TimeoutError):
            await self.show.gateway.wait_for(before + len(expected), _PATIENCE)
        await _settled(self.show.erp)
        arrived = list(ledger)[before:]
        right = len(arrived) == len(expected) and all(
            entry.phone == phone and words in entry.content
            for entry, (phone, words) in zip(arrived, expected, strict=True)
        )
        self.check(right, f"{title}: {len(arrived)} SMS, expected {len(expected)} with the right phone and text")
        return arrived

    def check(self, good: bool, fault: str) -> None:
        if not good:
            self.faults.append(fault)


async def _script(show: Stage) -> list[str]:
    """One scene for each promise; returns what was not as it should be."""
    scenes, db, phone = _Scenes(show), show.erp, "0980000000"
    await scenes.play(
        "a balance falls below 100.000", [erp.withdraw(db, ACCOUNT, Decimal(60000))], [(phone, "con 90.000 VND")]
    )
    arrived = await scenes.play(
        "three steps of one order, on the ticket that the first SMS makes",
        [erp.advance_order(db, ORDER) for _ in range(3)],
        [(phone, "da duoc xac nhan"), (phone, "dang duoc giao"), (phone, "da giao xong")],
    )
    sent, given = [e.ticket_id_sent for e in arrived], {e.ticket_id for e in arrived}
    scenes.check(len(given) == 1 and sent == [None, *given, *given], "three steps of one order: not on one ticket")
    arrived = await scenes.play(
        "an order that has a ticket in the ERP",
        [erp.advance_order(db, ORDER_WITH_TICKET)],
        [("0912345678", "xac nhan")],
    )
    scenes.check([e.ticket_id_sent for e in arrived] == [TICKET], "an order with a ticket: not attached to it")
    await scenes.play("a change that is rolled back", [erp.rolled_back_change(db, ACCOUNT, Decimal(5000))], [])

    show.say("\n    (the daemon is stopped)")
    await show.stop()
    meanwhile = [erp.deposit(db, ACCOUNT, Decimal(100000)), erp.withdraw(db, ACCOUNT, Decimal(110000))]
    await scenes.play("a change while the daemon is stopped", [*meanwhile, _back(show)], [(phone, "con 80.000 VND")])

    show.say("\n    (the gateway is down)")
    show.gateway.refuse(Port.PRIMARY)
    meanwhile = [erp.deposit(db, ACCOUNT, Decimal(100000)), erp.withdraw(db, ACCOUNT, Decimal(120000))]
    await scenes.play("a change while the gateway is down", [*meanwhile, _reopened(show)], [(phone, "con 60.000 VND")])
    return scenes.faults


def _known_ticket(gateway: Gateway) -> None:
    """The service desk's ticket that an order of the sample ERP names already."""
    contact = gateway.state.add_contact("0912345678")
    gateway.state.add_ticket(subject=ORDER_WITH_TICKET, requester_id=contact.id, source="api")


async def _back(show: Stage) -> str:
    await show.start()
    return "(the daemon is started again)"


async def _reopened(show: Stage) -> str:
    """Opens the gateway once the daemon has found it closed."""
    async with asyncio.timeout(_PATIENCE):
        while not await _one(show.erp, "SELECT count(*) AS n FROM listener.account WHERE pause_kind = 'unreachable'"):
            await asyncio.sleep(0.05)
    await show.gateway.reopen(Port.PRIMARY)
    return "(the gateway is back)"


async def _settled(conn: Connection) -> None:
    """Until no change waits to be matched and no message waits or is being sent."""
    waiting = """SELECT (SELECT count(*) FROM listener.outbox)
                      + (SELECT count(*) FROM listener.message WHERE state IN ('waiting', 'sending')) AS n"""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while await _one(conn, waiting):
                await asyncio.sleep(0.05)


async def _one(conn: Connection, query: LiteralString) -> int:
    row = await (await conn.execute(query)).fetchone()
    return int(row["n"]) if row else 0


async def _business(show: Stage, stopping: asyncio.Event) -> None:
    async for deed in erp.traffic(show.erp, random.Random(), stopping, 0.5):
        show.say(f"    ERP: {deed}")


def _narrator(say: Say) -> Observer:
    """Tells change → rule → text → ticket → answer, a line for each step."""

    def on_change(change: Change, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            for planned in verdict.messages:
                to = mask_phone(planned.phone) if planned.phone else "nobody"
                words = planned.text if planned.reason is None else f"{planned.state.value}: {planned.reason}"
                say(f"      {change.watch} {change.key} -> rule {verdict.rule} -> {to}: {words}")

    def on_outcome(result: Result) -> None:
        row = settlement(result)
        sent = f"on ticket {result.lease.ticket}" if result.lease.ticket else "without a ticket"
        ticket = f", ticket {row['ticket_received']}" if row["ticket_received"] else ""
        reason = f" ({row['reason']})" if row["reason"] else ""
        say(f"      SMS {result.lease.message_id} {sent} -> {row['outcome']}{ticket}{reason}, {result.ms} ms")

    return Observer(on_change=on_change, on_outcome=on_outcome)


def rules_text() -> str:
    """The sample ERP's rules: the wheel's own copy, else the one of the checkout."""
    packed = files("listener") / "rules.yaml"
    return (packed if packed.is_file() else Path(__file__).parent.parent / "rules.yaml").read_text(encoding="utf-8")

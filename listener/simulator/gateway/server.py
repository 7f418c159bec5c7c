"""The gateway on loopback: two ports, one state, real HTTP.

Order of checks per request: block, domain, rate limit, token, path, body; then a fault, before or after the effect.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from aiohttp import web

from listener.simulator.gateway import api, control
from listener.simulator.gateway.calls import Call
from listener.simulator.gateway.door import Door
from listener.simulator.gateway.faults import Break, Fault, Garbage, Subject
from listener.simulator.gateway.limits import Verdict
from listener.simulator.gateway.replies import (
    DOMAIN_INCORRECT,
    UNAUTHORIZED,
    RefusedError,
    Reply,
    blocked,
    refused,
    too_many,
)
from listener.simulator.gateway.settings import GatewaySettings, Port
from listener.simulator.gateway.state import Request, State
from listener.simulator.gateway.webhook import WebhookSender
from listener.simulator.gateway.wire import Line, play, respond

RequestHook = Callable[[Request], Awaitable[None]]


class Gateway:
    """A running gateway: `async with Gateway(GatewaySettings()) as gateway`.

    `on_request` is awaited once per API request, after its body is read (or it was refused) and before any effect or
    answer. Port 0 takes a free one. Raises UsageError when a port is taken.
    """

    def __init__(
        self,
        settings: GatewaySettings | None = None,
        *,
        port: int = 0,
        backup_port: int = 0,
        on_request: RequestHook | None = None,
    ) -> None:
        self._webhook = WebhookSender()
        self.state = State(settings or GatewaySettings(), self._webhook.tell)
        self._wanted = {Port.PRIMARY: port, Port.BACKUP: backup_port}
        self._on_request = on_request
        self._doors: dict[Port, Door] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        try:
            for port, number in self._wanted.items():
                self._doors[port] = Door(number, partial(self._handle, port))
            for door in self._doors.values():
                await door.open()
        except BaseException:
            await self._close_doors()
            raise
        self._tasks.add(asyncio.create_task(self._webhook.run(), name="gateway webhook"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self._close_doors()
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def url(self) -> str:
        """Of the primary port, without a slash at its end."""
        return self._doors[Port.PRIMARY].url

    @property
    def backup_url(self) -> str:
        """Of the backup port."""
        return self._doors[Port.BACKUP].url

    def add_fault(self, fault: Fault) -> None:
        """Puts a fault at the end of the queue."""
        self.state.faults.add(fault)

    def change(self, **changes: object) -> None:
        """Changes settings by name, all or none. Raises ValueError."""
        self.state.settings = control.changed(self.state.settings, changes)

    def block(self, seconds: float | None = None) -> None:
        """Starts a block now, of `block_seconds` unless said otherwise; 0 lifts one."""
        settings = self.state.settings
        self.state.limiter.block(self.state.now(), settings.block_seconds if seconds is None else seconds)

    def refuse(self, port: Port, seconds: float | None = None) -> None:
        """Makes a port refuse connections, for `seconds` or until `reopen`."""
        self._doors[port].refuse(seconds)

    async def reopen(self, port: Port) -> None:
        """Makes a port accept connections again."""
        await self._doors[port].open()

    async def wait_for(self, accepted: int, timeout: float = 10.0) -> None:
        """Returns once this many messages are in the ledger. Raises TimeoutError after `timeout` seconds."""
        await self.wait_until(lambda state: len(state.ledger) >= accepted, timeout)

    async def wait_until(self, holds: Callable[[State], bool], timeout: float = 10.0) -> None:
        """Returns once `holds` does; asked at every event (see `State.changed`). Raises TimeoutError."""
        await self.state.wait_until(holds, timeout)

    async def _close_doors(self) -> None:
        for door in self._doors.values():
            await door.close()

    async def _handle(self, port: Port, request: web.BaseRequest) -> web.StreamResponse:
        door = self._doors[port]
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        reused = door.enter(request)
        try:
            if port is Port.PRIMARY and request.path.startswith(control.PREFIX):
                return await control.answer(self.state, self._doors, request)
            logged = self.state.arrived(port, request.method, request.path_qs, request.headers.get("Authorization", ""))
            return await self._answer(logged, reused, Line(request, partial(door.lost, request)))
        except (ConnectionError, web.RequestPayloadError):
            # The client left in the middle of its own body.
            return web.Response()
        finally:
            door.leave(request)
            self._tasks.discard(task)

    async def _answer(self, logged: Request, reused: bool, line: Line) -> web.StreamResponse:
        state, request = self.state, line.request
        try:
            endpoint, planner, ticket_id = self._gate(logged, request)
            early = state.faults.pick_early(Subject(endpoint=endpoint, port=logged.port, reused=reused))
            if early is not None:
                state.struck(logged, early.kind)
                return await line.end(early.ending)
            body = await self._read(request)
            plan = planner(state, Call(request=logged, query=request.query, body=body, ticket_id=ticket_id))
        except RefusedError as refusal:
            await self._received(logged)
            return self._hand_over(logged, refusal.reply)
        logged.phone, logged.content = plan.phone, plan.content
        await self._received(logged)
        action = state.faults.pick(
            Subject(endpoint=endpoint, port=logged.port, reused=reused, phone=plan.phone, content=plan.content)
        )
        if action is None:
            reply = plan.effect()
            if state.settings.latency > 0:
                await asyncio.sleep(state.settings.latency)
            return self._hand_over(logged, reply)
        state.struck(logged, action.kind)
        response = await play(action, plan.effect, line)
        if not isinstance(action, Break | Garbage):
            state.answered(logged, response.status)
        return response

    def _gate(self, logged: Request, request: web.BaseRequest) -> api.Route:
        """All checks that need no body, in the documented order. Raises RefusedError."""
        settings = self.state.settings
        if self.state.is_blocked(logged):
            raise RefusedError(blocked(settings))
        domain, _, path = request.path[1:].partition("/")
        if domain != settings.domain:
            raise RefusedError(DOMAIN_INCORRECT)
        match self.state.admit(logged):
            case Verdict.TOO_MANY:
                raise RefusedError(too_many(settings))
            case Verdict.BLOCKED:
                raise RefusedError(blocked(settings))
        if request.headers.get("Authorization") != f"Bearer {settings.token}":
            raise RefusedError(UNAUTHORIZED)
        return api.route(request.method, path)

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The body. Raises RefusedError for one that is packed wrongly or too large to be taken in (assumed)."""
        try:
            return await request.read()
        except (web.RequestPayloadError, web.HTTPRequestEntityTooLarge):
            if request.transport is None:
                # The client left in the middle of it.
                raise
            raise refused(self.state.settings, "Body cannot be read") from None

    async def _received(self, logged: Request) -> None:
        if self._on_request is not None:
            await self._on_request(logged)

    def _hand_over(self, logged: Request, reply: Reply) -> web.Response:
        self.state.answered(logged, reply.status)
        return respond(reply)


async def serve(
    settings: GatewaySettings, port: int, backup_port: int, stopping: asyncio.Event, announce: Callable[[str], None]
) -> None:
    """Runs the gateway until `stopping` is set; says through `announce` where it listens. Raises UsageError."""
    async with Gateway(settings, port=port, backup_port=backup_port) as gateway:
        announce(f"CareSoft simulator: primary {gateway.url}, backup {gateway.backup_url}, domain {settings.domain}")
        announce(f"control: {gateway.url}{control.PREFIX}counters")
        await stopping.wait()

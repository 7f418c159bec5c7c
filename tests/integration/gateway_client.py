"""A plain HTTP client for the tests of the simulated gateway; it knows nothing of the product's own client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from listener.simulator.gateway import Action, Fault, Gateway, GatewaySettings
from listener.simulator.gateway.server import RequestHook

PHONE = "0980000000"
TOKEN = "demo-token"
START = 1_795_316_400.0
"""2026-11-22 10:00:00 in Vietnam."""


class ManualClock:
    """Seconds since the epoch that move only when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """An answer, read whole."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """Calls one running gateway."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession, clock: ManualClock) -> None:
        self.gateway = gateway
        self.session = session
        self.clock = clock

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        backup: bool = False,
        domain: str = "acme",
        timeout: float = 10,
    ) -> Got:
        """`body` goes as it is when it is bytes, else as JSON. A token of None sends no Authorization header."""
        base = self.gateway.backup_url if backup else self.gateway.url
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.request(
            method,
            f"{base}/{domain}/api/v1/{path}",
            data=data,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            return Got(status=response.status, body=await response.read(), headers=dict(response.headers))

    async def sms(self, content: str = "Xin chào", *, backup: bool = False, timeout: float = 10, **fields: Any) -> Got:
        """POSTs an SMS; fields replace or extend those of the body."""
        body = {"service_id": "12", "content": content, "phone": PHONE, **fields}
        return await self.call("POST", "sms", {"sms": body}, backup=backup, timeout=timeout)

    async def control(self, method: str, path: str, body: Any = None) -> Got:
        """Calls the simulator's own API."""
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(method, f"{self.gateway.url}/_control/{path}", data=data) as response:
            return Got(status=response.status, body=await response.read(), headers=dict(response.headers))

    def fault(self, action: Action, **conditions: Any) -> None:
        """Programs a fault."""
        self.gateway.add_fault(Fault(action=action, **conditions))

    @property
    def texts(self) -> list[str]:
        """The contents in the ledger, in order."""
        return [entry.content for entry in self.gateway.state.ledger]


@asynccontextmanager
async def running(*, on_request: RequestHook | None = None, **settings: Any) -> AsyncIterator[Api]:
    """A gateway with a clock that stands still, without a limit per second unless one is set."""
    clock = ManualClock()
    wanted = GatewaySettings(**{"per_second": None, "clock": clock, **settings})
    async with Gateway(wanted, on_request=on_request) as gateway, aiohttp.ClientSession() as session:
        yield Api(gateway, session, clock)


def sms_bytes(content: str = "raw", *, announced: int | None = None) -> bytes:
    """An SMS request as it goes over the wire; `announced` is a Content-Length that may not be true."""
    body = json.dumps({"sms": {"service_id": "12", "content": content, "phone": PHONE}}).encode()
    head = (
        "POST /acme/api/v1/sms HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if announced is None else announced}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came back over a socket: the bytes, and whether the connection was reset instead of closed."""

    data: bytes
    reset: bool


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection. Raises ConnectionRefusedError."""
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def refuses(url: str) -> bool:
    """Whether a new connection is refused."""
    try:
        _, writer = await connect(url)
    except ConnectionRefusedError:
        return True
    writer.close()
    await writer.wait_closed()
    return False


async def converse(url: str, request: bytes) -> Heard:
    """Sends bytes and reads to the end of the connection."""
    reader, writer = await connect(url)
    data = b""
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            while chunk := await reader.read(65536):
                data += chunk
        return Heard(data=data, reset=False)
    except ConnectionResetError:
        return Heard(data=data, reset=True)
    finally:
        writer.transport.abort()

"""A gateway that does nothing but take: `Sink` runs it as a process of its own, so that its CPU is nobody else's.

Every POST is answered as CareSoft does, with the next ticket. `GET /` tells, and forgets, how many came since it was
last asked, and when the first and the last of them did.
"""

import asyncio
import json
import signal
import sys
from time import perf_counter
from typing import Self

import aiohttp

PATIENCE = 120.0


class Sink:
    """`async with Sink() as sink`: POST to `sink.url`."""

    def __init__(self) -> None:
        self.url = ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.sink"), stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.url = (await self._process.stdout.readline()).decode().strip()
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        self._process.terminate()
        await self._process.wait()

    async def rate(self, expected: int, *, since: float | None = None, more: bool = False) -> float:
        """Waits until exactly `expected`, or `more`, have come since the last call; returns how many a second there
        were, from the first of them or `since` a time of `perf_counter`."""
        came, first, last = 0, float("inf"), 0.0
        async with asyncio.timeout(PATIENCE):
            while came < expected:
                await asyncio.sleep(0.1)
                async with self._http.get(self.url) as answer:
                    seen = await answer.json()
                if seen["n"]:
                    came, first, last = came + seen["n"], min(first, seen["first"]), seen["last"]
        assert more or came == expected, came
        return (came - 1) / (last - (first if since is None else since))

    async def forget(self) -> None:
        """What came after the last call does not count for the next one."""
        async with self._http.get(self.url) as answer:
            await answer.read()


class _Connection(asyncio.Protocol):
    came = 0
    tickets = 0
    first = last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        self._data = b""
        answer = json.dumps(self._posted() if lines[0].startswith(b"post ") else self._asked()).encode()
        kind = b"Content-Type: application/json\r\n"
        self._transport.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, len(answer), answer))
        if b"connection: close" in lines:
            self._transport.close()

    @staticmethod
    def _posted() -> dict[str, object]:
        count = _Connection
        count.last = perf_counter()
        if count.came == 0:
            count.first = count.last
        count.came += 1
        count.tickets += 1
        return {"code": "ok", "message": "", "ticket": {"ticket_id": count.tickets}}

    @staticmethod
    def _asked() -> dict[str, object]:
        count = _Connection
        seen: dict[str, object] = {"n": count.came, "first": count.first, "last": count.last}
        count.came = 0
        return seen


async def serve() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await over.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())

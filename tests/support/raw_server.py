"""A server that says exactly the bytes it is told to, whatever HTTP thinks of them."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

TLS = Path(__file__).parent / "tls"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole HTTP answer; `status` is such as `200 OK`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(data: bytes) -> Script:
    """Reads a whole request, writes `data` and closes."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return script


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Says nothing until the client leaves."""
    await reader.read()


@dataclass(slots=True)
class RawServer:
    """`requests` are the bytes of each connection's request, b"" for one that sent none."""

    scheme: str
    port: int = 0
    host: str = "127.0.0.1"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@asynccontextmanager
async def raw_server(
    script: Script, *, certificate: str | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serves `script` after each request; `certificate` is a file of `tls/`, without one it is plain HTTP."""
    if certificate is not None:
        context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / f"{certificate}.pem")
    seen = RawServer("https" if context else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        try:
            seen.requests.append(await _request(reader))
            if seen.requests[-1]:
                await script(reader, writer)
        except OSError:
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Headers and body of one request; what there was when the client left earlier."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return head + await reader.readexactly(int(length[1]) if length else 0)
    except asyncio.IncompleteReadError as error:
        return error.partial

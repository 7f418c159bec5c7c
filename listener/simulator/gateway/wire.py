"""What a fault does to one request's connection, down to the byte."""

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from listener.simulator.gateway.faults import (
    Action,
    Answer,
    Break,
    Delay,
    Drip,
    Ending,
    Garbage,
    Huge,
    ManyHeaders,
    Moment,
)
from listener.simulator.gateway.replies import JSON, Reply

_BLOCK = 64 * 1024
_BOMB_BLOCK = 8 * 1024 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Line:
    """The connection under one request, for answers that an HTTP server would never give."""

    def __init__(self, request: web.BaseRequest, lost: Callable[[], Awaitable[None]]) -> None:
        self.request = request
        self._lost = lost

    async def end(self, ending: Ending, written: bytes = b"") -> web.Response:
        """Writes bytes as they are, then ends the connection; the response returned never reaches the client."""
        transport = self.request.transport
        if transport is not None:
            if written:
                transport.write(written)
            match ending:
                case Ending.CLOSE:
                    transport.close()
                case Ending.RESET:
                    # Closing a socket that may not linger sends RST in place of FIN.
                    sock = transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    transport.abort()
                case Ending.HANG:
                    await self._lost()
        return web.Response()

    async def stream(self, response: web.StreamResponse, write: Callable[[], Awaitable[None]]) -> web.StreamResponse:
        """Sends the headers, then whatever `write` writes; a client that leaves ends it."""
        try:
            await response.prepare(self.request)
            await write()
        except ConnectionError:
            return web.Response()
        return response


def respond(reply: Reply) -> web.Response:
    """The reply as the HTTP server sends it."""
    return web.Response(
        status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type, **reply.headers}
    )


async def play(action: Action, effect: Callable[[], Reply], line: Line) -> web.StreamResponse:
    """Carries out the action, with the call's effect before it, after it or not at all."""
    match action:
        case Answer(after_effect=after):
            if after:
                effect()
            return respond(action.reply())
        case Delay(seconds=seconds, after_effect=False):
            await asyncio.sleep(seconds)
            return respond(effect())
        case Delay(seconds=seconds):
            reply = effect()
            await asyncio.sleep(seconds)
            return respond(reply)
        case Break(moment=Moment.BEFORE_READ | Moment.BEFORE_EFFECT, ending=ending):
            return await line.end(ending)
        case Break(moment=moment, ending=ending):
            return await line.end(ending, cut(effect().raw(), moment))
        case Garbage(data=data, ending=ending):
            effect()
            return await line.end(ending, data)
        case Drip():
            return await _drip(action, effect(), line)
        case Huge(size=size, gzip=gzip):
            effect()
            return await (_bomb(size, line) if gzip else _flood(size, line))
        case ManyHeaders(count=count, size=size):
            response = respond(effect())
            response.headers.update({f"X-Filler-{n}": "x" * size for n in range(count)})
            return response


def cut(raw: bytes, moment: Moment) -> bytes:
    """The part of an HTTP answer that is out when the connection breaks at this moment."""
    status_line = raw.index(b"\r\n") + 2
    headers = raw.index(b"\r\n\r\n") + 4
    length = {
        Moment.HALF_STATUS_LINE: status_line // 2,
        Moment.AFTER_STATUS_LINE: status_line,
        Moment.AFTER_HEADERS: headers,
        Moment.HALF_BODY: headers + (len(raw) - headers) // 2,
    }.get(moment, 0)
    return raw[:length]


async def _drip(drip: Drip, reply: Reply, line: Line) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type, **reply.headers})
    if not drip.forever:
        response.content_length = len(reply.body)

    async def write() -> None:
        for start in range(0, len(reply.body), drip.chunk):
            await response.write(reply.body[start : start + drip.chunk])
            await asyncio.sleep(drip.interval)
        while drip.forever:
            await response.write(b" " * drip.chunk)
            await asyncio.sleep(drip.interval)

    return await line.stream(response, write)


async def _flood(size: int, line: Line) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": JSON})
    response.content_length = size

    async def write() -> None:
        for start in range(0, size, _BLOCK):
            await response.write(b" " * min(_BLOCK, size - start))

    return await line.stream(response, write)


async def _bomb(size: int, line: Line) -> web.StreamResponse:
    """A valid gzip body of `size` blanks, made of one compressed block sent again and again."""
    blanks = b" " * _BOMB_BLOCK
    block = _deflated(blanks)
    rest = b" " * (size % _BOMB_BLOCK)
    tail = _deflated(rest)
    repeats = size // _BOMB_BLOCK
    response = web.StreamResponse(headers={"Content-Type": JSON, "Content-Encoding": "gzip"})
    # The empty final block is two bytes, checksum and size are four each.
    response.content_length = len(_GZIP_HEADER) + len(block) * repeats + len(tail) + 10

    async def write() -> None:
        await response.write(_GZIP_HEADER)
        checksum = 0
        for _ in range(repeats):
            await response.write(block)
            checksum = zlib.crc32(blanks, checksum)
        await response.write(tail)
        checksum = zlib.crc32(rest, checksum)
        await response.write(b"\x03\x00" + struct.pack("<II", checksum, size % 2**32))

    return await line.stream(response, write)


def _deflated(data: bytes) -> bytes:
    """Compressed without reference to what came before, so that the block may be repeated."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)

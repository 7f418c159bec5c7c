"""One message to one `Outcome` over HTTP: the only client of the CareSoft API.

What an answer means is decided by two facts: had a byte of the request perhaps been written, and what did the answer
say. A new connection for every request, so that a connection which the gateway closed while idle is never the reason
for an unclear result; no redirects, no proxy or netrc of the environment, no retry of the library's. At most 64 kB of
an answer are read, undecompressed. (Facts: docs.caresoft.vn, "Tin nhắn SMS" and "Giới hạn yêu cầu"; aiohttp 3.14.)
"""

import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from listener.model import (
    Accepted,
    LockedOut,
    Misconfigured,
    NotSent,
    Outcome,
    RateLimited,
    Rejected,
    TicketRefused,
    Unauthorized,
    Unknown,
    Unreachable,
)
from listener.settings import LOOPBACK, is_public
from listener.words import mask_numbers

# bytes of an answer that are looked at
ANSWER_LIMIT = 64 * 1024
# a ticket comes with all its comments
TICKET_LIMIT = 1024 * 1024
# a larger id is not one of CareSoft's, and would not fit the database's bigint
_TICKET_LIMIT = 2**63 - 1
_LOCK_OUT = re.compile(r"too\s+many\s+times", re.IGNORECASE)
_MINUTES = re.compile(r"(\d{1,4})\s*minutes?", re.IGNORECASE)
# the documented length of the lock-out, for when its text names none
_LOCK_OUT_MINUTES = 15
_ABOUT_TICKET = re.compile(r"ticket|phi[eế]u", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request needs of an account; `token` never leaves this module again."""

    domain: str
    service_id: str
    token: str

    def __repr__(self) -> str:
        return f"Access(domain={self.domain!r}, service_id={self.service_id!r}, token=***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """One comment of a ticket, as the gateway wrote it down; `at` None when its time cannot be read."""

    text: str
    at: datetime | None


class _PrivateAddressError(OSError):
    """The gateway's name leads to an address that is none of the internet."""


class _Resolver(AbstractResolver):
    """Names to addresses, those left out that the gateway may not stand at. What is left is what is connected to: a
    name that changes its address between a look and a connection changes nothing."""

    def __init__(self, fit: Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool]) -> None:
        self._system = aiohttp.ThreadedResolver()
        self._fit = fit

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        fit = [one for one in found if self._fit(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if found and not fit:
            raise _PrivateAddressError
        return fit

    async def close(self) -> None:
        await self._system.close()


class _SlotTooOldError(Exception):
    """The time of the slot was over before the first byte was written."""


class _Trace:
    """Tells of one request whether a byte may have left, and stops it at the last moment if it is not in time."""

    def __init__(self, in_time: Callable[[], bool]) -> None:
        self.written = False
        self._in_time = in_time

    def before_first_byte(self) -> None:
        if not self._in_time():
            raise _SlotTooOldError
        self.written = True


class CareSoft:
    """The gateway at `url`, else at `spare`. `timeout` is in seconds from the start of a request to the end of its
    answer; `private` lets its name lead to an address of a private network."""

    def __init__(self, url: str, timeout: float, *, spare: str | None = None, private: bool = False) -> None:
        self._url = url.rstrip("/")
        self._spare = spare
        local = urlsplit(self._url).hostname in LOOPBACK
        self._fit = lambda at: private or (at.is_loopback if local else is_public(at))
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "CareSoft":
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_before_first_byte)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                force_close=True, limit=0, ssl=ssl.create_default_context(), resolver=_Resolver(self._fit)
            ),
            trace_configs=[trace],
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def send_sms(
        self, access: Access, *, phone: str, text: str, ticket: int | None, in_time: Callable[[], bool]
    ) -> Outcome:
        """POSTs one SMS, once. `in_time` is asked right before the first byte; if it says no, none is written."""
        sms: dict[str, object] = {"service_id": access.service_id, "content": text, "phone": phone}
        if ticket is not None:
            sms["ticket_id"] = ticket
        body = json.dumps({"sms": sms}, ensure_ascii=False).encode()

        def read(status: int, retry_after: str | None, answer: bytes) -> Outcome:
            return read_answer(status, retry_after, answer, ticket, (access.token, text))

        began = monotonic()
        outcome = await self._request(self._url, "POST", access, "sms", body, in_time, read)
        left = self._timeout - (monotonic() - began)
        if not isinstance(outcome, Unreachable) or self._spare is None or left <= 0:
            return outcome
        # Not a byte was written, so this is still the one request of its permit.
        instead = await self._request(self._spare, "POST", access, "sms", body, in_time, read, seconds=left)
        return outcome if isinstance(instead, Unreachable | NotSent) else instead

    async def comments(
        self, access: Access, ticket: int, *, in_time: Callable[[], bool]
    ) -> "tuple[Comment, ...] | Outcome":
        """The comments of a ticket; an `Outcome` when they cannot be had, told apart as for an SMS."""
        path = f"tickets/{ticket}"
        return await self._request(self._url, "GET", access, path, None, in_time, read_comments, TICKET_LIMIT)

    async def _request(
        self,
        url: str,
        method: str,
        access: Access,
        path: str,
        body: bytes | None,
        in_time: Callable[[], bool],
        read: Callable[[int, str | None, bytes], T],
        limit: int = ANSWER_LIMIT,
        seconds: float | None = None,
    ) -> T | Outcome:
        assert self._session is not None
        trace = _Trace(in_time)
        try:
            async with self._session.request(
                method,
                yarl.URL(f"{url}/{quote(access.domain, safe='')}/api/v1/{path}", encoded=True),
                data=body,
                headers={"Authorization": f"Bearer {access.token}", "Content-Type": "application/json"},
                allow_redirects=False,
                timeout=_time_for(self._timeout if seconds is None else seconds),
                trace_request_ctx=trace,
            ) as response:
                content = await _read_bounded(response, limit)
                return read(response.status, response.headers.get("Retry-After"), content)
        except _SlotTooOldError:
            return NotSent(cause="the slot was too old")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            # Never the error's text: it may hold the URL, a header or the body.
            cause = _in_words(error)
            return Unknown(cause=cause) if trace.written else Unreachable(cause=cause)


def read_answer(
    status: int, retry_after: str | None, body: bytes, ticket: int | None, secrets: Sequence[str] = ()
) -> Outcome:
    """What a complete answer to a POST of an SMS says; `ticket` is the one the request named, if any.

    `secrets` of the request are not repeated, should the gateway do so.
    """
    answer = _json(body)
    code = str(answer.get("code", "")).strip().casefold()
    message = gateway_words(answer.get("message"), secrets)
    match status:
        case 200 if code == "ok":
            given = _ticket_id(answer.get("ticket"))
            if given is None:
                return Unknown(cause="200 and ok, but without a usable ticket", status=status)
            return Accepted(ticket=given)
        case 200 if code != "errors":
            return Unknown(cause="200 with an answer that cannot be read", status=status)
        case 200 | 400 | 413 | 422:
            reason = message or f"refused with status {status}"
            if ticket is not None and _ABOUT_TICKET.search(message):
                return TicketRefused(reason=reason, status=status)
            return Rejected(reason=reason, status=status)
        case 401:
            return Unauthorized(status=status)
        # Knocking on makes a lock-out longer, so it is recognised also in what is no JSON (the documentation itself has
        # samples with keys unquoted).
        case 404 if _LOCK_OUT.search(said := message or body.decode(errors="replace")):
            minutes = _MINUTES.search(said)
            return LockedOut(minutes=int(minutes[1]) if minutes else _LOCK_OUT_MINUTES)
        case 403 | 404 | 409 | 410 if ticket is not None and _ABOUT_TICKET.search(message):
            # One order's ticket that is gone, closed or another's must not stop the whole account as a wrong token or a
            # wrong address would.
            return TicketRefused(reason=message, status=status)
        case 403:
            return Unauthorized(status=status)
        case 429:
            return RateLimited(retry_after=_seconds(retry_after))
        case 408:
            return Unknown(cause="the gateway gave up waiting", status=status)
        case _ if 300 <= status < 500:
            return Misconfigured(reason=message or f"status {status}", status=status)
        case _:
            return Unknown(cause=message or f"status {status}", status=status)


def read_comments(status: int, retry_after: str | None, body: bytes) -> tuple[Comment, ...] | Outcome:
    """What a complete answer to `GET tickets/{id}` says (its shape is known from public clients: read tolerant)."""
    answer = _json(body)
    if status != 200 or str(answer.get("code", "")).strip().casefold() != "ok":
        return read_answer(status, retry_after, body, None)
    ticket = answer.get("ticket")
    listed = ticket.get("comments") if isinstance(ticket, dict) else None
    return tuple(
        Comment(text=comment["comment"], at=_time(comment.get("created_at")))
        for comment in (listed if isinstance(listed, list) else [])
        if isinstance(comment, dict) and isinstance(comment.get("comment"), str)
    )


def _time(value: object) -> datetime | None:
    """A time of the gateway's; which zone it means when it names none is not known, so it is taken for UTC."""
    try:
        at = datetime.fromisoformat(str(value).strip().replace("/", "-"))
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def gateway_words(message: object, secrets: Sequence[str] = ()) -> str:
    """What the gateway said, fit to be kept: one line, short, without `secrets`, long numbers masked."""
    text = message if isinstance(message, str) else ""
    for secret in secrets:
        text = text.replace(secret, "***")
    return mask_numbers(_CONTROL.sub(" ", text)).strip()[:200]


def _time_for(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, connect=min(10.0, seconds))


async def _before_first_byte(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.before_first_byte()


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    content = bytearray()
    while len(content) < limit:
        chunk = await response.content.read(limit - len(content))
        if not chunk:
            break
        content += chunk
    return bytes(content)


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _ticket_id(ticket: object) -> int | None:
    value = ticket.get("ticket_id") if isinstance(ticket, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _TICKET_LIMIT:
        return value
    return None


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds; a date, or anything else that is no small number, is left to our own backoff."""
    if retry_after and re.fullmatch(r"\s*\d{1,5}\s*", retry_after):
        return float(retry_after)
    return None


def _in_words(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "the gateway's certificate is not valid"
        case aiohttp.ClientConnectorSSLError():
            return "TLS with the gateway failed"
        case aiohttp.ClientConnectorDNSError(os_error=_PrivateAddressError()):
            return "the gateway's name leads to a private address; if it is meant, set LISTENER_CARESOFT_PRIVATE=1"
        case aiohttp.ClientConnectorDNSError():
            return "the gateway's name cannot be resolved"
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorError():
            return "no connection to the gateway"
        case aiohttp.ServerDisconnectedError():
            return "the gateway closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case OSError():
            return "the connection broke"
        case _:
            return f"the request failed ({type(error).__name__})"

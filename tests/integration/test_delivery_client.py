"""The one request and what its answer means, byte for byte, against a server that says whatever it is told to (F42, F45
to F47, F57)."""

import asyncio
import json
import os
import resource
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from listener.caresoft import Access, CareSoft
from listener.model import (
    Accepted,
    Misconfigured,
    Outcome,
    RateLimited,
    Rejected,
    TicketRefused,
    Unauthorized,
    Unknown,
    Unreachable,
)
from tests.support.raw_server import TLS, RawServer, Script, answer, raw_server, says, silent

ACCESS = Access(domain="acme", service_id="12", token="canary-token")
PHONE, TEXT = "0980000000", "ACME: Đơn DH42 đã giao"
OK = b'{"code":"ok","ticket":{"ticket_id":7,"ticket_no":1,"requester_id":2,"assignee_id":3}}'


async def send(
    url: str, *, ticket: int | None = None, timeout: float = 5.0, in_time: Callable[[], bool] = lambda: True
) -> Outcome:
    async with CareSoft(url, timeout) as gateway:
        return await gateway.send_sms(ACCESS, phone=PHONE, text=TEXT, ticket=ticket, in_time=in_time)


async def outcome_of(data: bytes, *, ticket: int | None = None) -> Outcome:
    """What comes of an answer of these bytes, after exactly one request."""
    async with raw_server(says(data)) as server:
        outcome = await send(server.url, ticket=ticket)
    assert len(server.requests) == 1
    return outcome


@pytest.mark.parametrize("ticket", [None, 9410022])
async def test_the_request_is_as_documented(ticket: int | None) -> None:
    async with raw_server(says(answer("200 OK", OK))) as server:
        assert await send(server.url, ticket=ticket) == Accepted(ticket=7)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert first == "POST /acme/api/v1/sms HTTP/1.1"
    assert headers["authorization"] == "Bearer canary-token"
    assert headers["content-type"] == "application/json"
    sms: dict[str, object] = {"service_id": "12", "content": TEXT, "phone": PHONE}
    assert json.loads(body) == {"sms": sms if ticket is None else sms | {"ticket_id": ticket}}
    assert "đã giao".encode() in body


async def test_a_slot_that_is_too_old_writes_not_one_byte() -> None:
    async with raw_server(says(answer("200 OK", OK))) as server:
        outcome = await send(server.url, in_time=lambda: False)
        while not server.requests:
            await asyncio.sleep(0.01)
    assert type(outcome).__name__ == "NotSent"
    assert server.requests == [b""]


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        (OK, True),
        (b'{"code":"OK","ticket":{"ticket_id":"7"}}', True),
        (b'{"code":" ok ","ticket":{"ticket_id":7}}', True),
        (b"", False),
        (b"<html>ok</html>", False),
        (b"{}", False),
        (b'{"code":"ok"}', False),
        (b'{"code":"ok","ticket":null}', False),
        (b'{"code":"ok","ticket":7}', False),
        (b'{"code":"ok","ticket":[7]}', False),
        (b'{"code":"ok","ticket":{"ticket_id":null}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":""}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":0}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":-7}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":true}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":7.5}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":9223372036854775808}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":"' + b"7" * 5000 + b'"}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":"<script>alert(1)</script>"}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":"7\\r\\n"}}', False),
        (b'{"code":"ok","ticket":{"ticket_id":7}}{"code":"ok"}', False),
        (b'{"code":"ok","ticket":{"ticket_id":', False),
        (b"error", False),
        (b'{"code":"error","ticket":{"ticket_id":7}}', False),
        (b'"ok"', False),
        (b"[" * 60000, False),
        (b"\xff\xfe{", False),
    ],
)
async def test_only_ok_with_a_ticket_is_accepted(body: bytes, accepted: bool) -> None:
    outcome = await outcome_of(answer("200 OK", body))
    if accepted:
        assert outcome == Accepted(ticket=7)
    else:
        assert isinstance(outcome, Unknown)
        assert outcome.status == 200


async def test_the_content_type_of_an_answer_does_not_matter() -> None:
    data = answer("200 OK", OK).replace(b"application/json", b"text/html; charset=utf-16")
    assert await outcome_of(data) == Accepted(ticket=7)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_is_final_and_says_why(status: int) -> None:
    body = '{"code":"errors","message":"phone 0980000000\\nkhông hợp lệ"}'.encode()
    assert await outcome_of(answer(f"{status} No", body)) == Rejected(
        reason="phone 098***000 không hợp lệ", status=status
    )


async def test_a_refusal_may_come_as_200() -> None:
    outcome = await outcome_of(answer("200 OK", b'{"code":"errors","message":"content is required"}'))
    assert outcome == Rejected(reason="content is required", status=200)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 410])
async def test_a_refusal_for_the_ticket_is_told_apart(status: int) -> None:
    data = answer(f"{status} X", b'{"code":"errors","message":"Ticket not found"}')
    assert await outcome_of(data, ticket=5) == TicketRefused(reason="Ticket not found", status=status)
    assert not isinstance(await outcome_of(data), TicketRefused)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token(status: int) -> None:
    assert await outcome_of(answer(f"{status} No", b"<html>")) == Unauthorized(status=status)


@pytest.mark.parametrize(
    ("header", "seconds"), [("", None), ("Retry-After: 30", 30.0), ("Retry-After: Fri, 31 Dec 2026 23:59:59 GMT", None)]
)
async def test_too_many_requests(header: str, seconds: float | None) -> None:
    body = b'{"code":"errors","message":"Too Many Attempts."}'
    data = answer("429 Too Many", body, *([header] if header else []))
    assert await outcome_of(data) == RateLimited(retry_after=seconds)


@pytest.mark.parametrize(
    ("message", "minutes"),
    [
        ("Domain incorrect too many times , retry after 15 minutes ", 15),
        ("domain incorrect TOO  MANY\\ttimes, retry after 120 minutes", 120),
        ("Ticket: too many times", 15),
    ],
)
async def test_the_404_that_is_a_lock_out(message: str, minutes: int) -> None:
    body = f'{{"code":"errors","message":"{message}"}}'.encode()
    outcome = await outcome_of(answer("404 Not Found", body), ticket=5)
    assert (type(outcome).__name__, getattr(outcome, "minutes", None)) == ("LockedOut", minutes)


@pytest.mark.parametrize("status", [402, 404, 405, 410])
async def test_any_other_4xx_is_about_the_account(status: int) -> None:
    assert await outcome_of(answer(f"{status} No", b"<html>")) == Misconfigured(
        reason=f"status {status}", status=status
    )


@pytest.mark.parametrize("status", [201, 202, 204, 408, 500, 502, 503, 504, 599])
async def test_perhaps_sent(status: int) -> None:
    outcome = await outcome_of(answer(f"{status} X", OK if status != 204 else b""))
    assert isinstance(outcome, Unknown)
    assert outcome.status == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async with (
        raw_server(says(answer("200 OK", OK))) as friendly,
        raw_server(says(answer(f"{status} Moved", b"", f"Location: {friendly.url}/sms"))) as server,
    ):
        assert await send(server.url) == Misconfigured(reason=f"status {status}", status=status)
        assert len(server.requests) == 1
        assert friendly.connections == 0


HALF_HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b'{"code":"ok","ticket'


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 20", HALF_HEADERS, bytes(range(255, 127, -1)) + b"\r\n\r\n", b"\x00" * 64, b"SSH-2.0-x\r\n\r\n"],
    ids=["close", "half a status line", "half a body", "binary", "zeros", "another protocol"],
)
async def test_an_answer_that_breaks_off_or_is_no_http_is_unknown(data: bytes) -> None:
    assert isinstance(await outcome_of(data), Unknown)


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _half_a_body_then_silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HALF_HEADERS)
    await silent(reader, writer)


async def _drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + OK)
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("script", [_reset, silent, _half_a_body_then_silence, _drip])
async def test_no_whole_answer_in_time_is_unknown(script: Script) -> None:
    async with raw_server(script) as server:
        assert isinstance(await send(server.url, timeout=0.5), Unknown)
    assert len(server.requests) == 1


async def _endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n")
    for _n in range(32768):
        writer.write(b" " * 65536)
        await writer.drain()


async def test_of_a_huge_answer_only_the_beginning_is_read() -> None:
    async with raw_server(_endless) as server:
        assert isinstance(await send(server.url), Unknown)
        assert len(server.requests) == 1


async def test_a_compressed_answer_is_not_unpacked() -> None:
    assert isinstance(
        await outcome_of(answer("200 OK", b"\x1f\x8b" + b"\x00" * 200, "Content-Encoding: gzip")), Unknown
    )


async def test_a_thousand_headers_do_no_harm() -> None:
    outcome = await outcome_of(answer("200 OK", OK, *(f"X-{n}: {'x' * 8000}" for n in range(1000))))
    assert isinstance(outcome, Accepted | Unknown)


async def test_every_request_has_a_connection_of_its_own() -> None:
    keep_alive = says(answer("200 OK", OK, "Connection: keep-alive"))
    async with raw_server(keep_alive) as server, CareSoft(server.url, 5.0) as gateway:
        for _ in range(3):
            outcome = await gateway.send_sms(ACCESS, phone=PHONE, text=TEXT, ticket=None, in_time=lambda: True)
            assert outcome == Accepted(ticket=7)
    assert server.connections == 3


# -- surely not sent


async def send_with_spare(url: str, spare: str, in_time: Callable[[], bool] = lambda: True) -> Outcome:
    async with CareSoft(url, 5.0, spare=spare) as gateway:
        return await gateway.send_sms(ACCESS, phone=PHONE, text=TEXT, ticket=None, in_time=in_time)


async def test_the_spare_host_is_asked_where_not_a_byte_could_be_written() -> None:
    async with raw_server(silent) as server:
        down = server.url
    asked = []
    async with raw_server(says(answer("200 OK", OK))) as spare:
        outcome = await send_with_spare(down, spare.url, lambda: not asked.append(1))
    assert outcome == Accepted(ticket=7)
    assert (len(spare.requests), asked) == (1, [1])
    assert await send_with_spare(down, down) == Unreachable(cause="no connection to the gateway")


async def test_too_late_for_its_slot_the_first_host_is_what_could_not_be_reached() -> None:
    async with raw_server(silent) as server:
        down = server.url
    async with raw_server(says(answer("200 OK", OK))) as spare:
        outcome = await send_with_spare(down, spare.url, lambda: False)
    assert outcome == Unreachable(cause="no connection to the gateway")
    assert not any(spare.requests)


@pytest.mark.parametrize("said", [b"", answer("500 Oops", b""), answer("404 Not Found", b""), answer("429 Slow", b"")])
async def test_the_spare_host_is_not_asked_once_a_byte_may_have_been_written(said: bytes) -> None:
    async with raw_server(says(said)) as server, raw_server(says(answer("200 OK", OK))) as spare:
        outcome = await send_with_spare(server.url, spare.url)
    assert not isinstance(outcome, Accepted)
    assert (len(server.requests), spare.connections) == (1, 0)


async def test_nobody_listens() -> None:
    async with raw_server(silent) as server:
        url = server.url
    assert await send(url) == Unreachable(cause="no connection to the gateway")


async def test_no_such_name() -> None:
    assert await send("http://no-such-host.invalid") == Unreachable(cause="the gateway's name cannot be resolved")


async def test_a_connection_that_is_never_made() -> None:
    async with raw_server(silent) as server:
        # Accepts TCP and never answers the TLS greeting.
        url = server.url.replace("http:", "https:")
        assert await send(url, timeout=0.5) == Unreachable(cause="no answer in time")
        assert not any(b"sms" in request for request in server.requests)


async def test_no_descriptor_left() -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with raw_server(silent) as server, CareSoft(server.url, 5.0) as gateway:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, allowed[1]))
        try:
            outcome = await gateway.send_sms(ACCESS, phone=PHONE, text=TEXT, ticket=None, in_time=lambda: True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
        assert isinstance(outcome, Unreachable)
        assert server.connections == 0


@asynccontextmanager
async def tls(monkeypatch: pytest.MonkeyPatch, certificate: str, *, trusted: bool) -> AsyncIterator[RawServer]:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / f"{certificate}.pem"))
    async with raw_server(says(answer("200 OK", OK)), certificate=certificate) as server:
        server.host = "localhost"
        yield server


async def test_a_valid_certificate_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tls(monkeypatch, "localhost", trusted=True) as server:
        assert await send(server.url) == Accepted(ticket=7)


@pytest.mark.parametrize(("certificate", "trusted"), [("localhost", False), ("expired", True), ("otherhost", True)])
async def test_no_word_leaves_over_a_connection_that_cannot_be_trusted(
    monkeypatch: pytest.MonkeyPatch, certificate: str, trusted: bool
) -> None:
    async with tls(monkeypatch, certificate, trusted=trusted) as server:
        assert await send(server.url) == Unreachable(cause="the gateway's certificate is not valid")
    assert not any(server.requests)


async def test_old_tls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "localhost.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with raw_server(says(answer("200 OK", OK)), certificate="localhost", context=context) as server:
        server.host = "localhost"
        assert isinstance(await send(server.url), Unreachable)
    assert not any(server.requests)


async def test_the_environment_does_not_redirect_traffic(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    async with raw_server(silent) as proxy, raw_server(says(answer("200 OK", OK))) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("NETRC", str(netrc))
        assert await send(server.url) == Accepted(ticket=7)
        assert proxy.connections == 0
        assert b"Bearer canary-token" in server.requests[0]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "fd00::1"])
async def test_f77_a_name_that_leads_to_a_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """F77: whoever rules the name service leads nobody into the company's own network."""
    async with raw_server(says(answer("200 OK", OK))) as server:
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *args, **kwargs: real(address, *args, **kwargs))
        outcome = await send(server.url.replace("127.0.0.1", "gateway.example"))
    assert isinstance(outcome, Unreachable)
    assert "LISTENER_CARESOFT_PRIVATE" in outcome.cause
    assert server.connections == 0


async def test_f77_the_address_that_was_looked_at_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """F77: a name that changes its address after the look is asked for once, and so has no second address."""
    asked: list[object] = []

    def once(host: object, *args: object, **kwargs: object) -> object:
        asked.append(host)
        assert len(asked) == 1, "asked for again after the look"
        return real("127.0.0.1", *args, **kwargs)

    async with raw_server(says(answer("200 OK", OK))) as server:
        real: Callable[..., object] = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", once)
        async with CareSoft(server.url.replace("127.0.0.1", "gateway.example"), 5.0, private=True) as gateway:
            sent = await gateway.send_sms(ACCESS, phone=PHONE, text=TEXT, ticket=None, in_time=lambda: True)
    assert sent == Accepted(ticket=7)
    assert asked == ["gateway.example"]


async def test_no_cause_holds_a_secret() -> None:
    body = '{"code":"errors","message":"Bearer canary-token for 0980000000: ACME: Đơn DH42 đã giao"}'.encode()
    outcome = await outcome_of(answer("500 Oops", body))
    assert "0980000000" not in repr(outcome)
    assert "canary" not in repr(outcome)
    assert "canary" not in repr(ACCESS)

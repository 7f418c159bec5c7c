"""Broken connections, byte for byte, and ports that refuse."""

import asyncio
import time
from http import HTTPStatus

import aiohttp
import pytest

from listener.simulator.gateway import Action, Break, Ending, Fault, Garbage, Gateway, GatewaySettings, Moment, Port
from tests.integration.gateway_client import Api, connect, converse, refuses, running, sms_bytes

STATUS_LINE = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("moment", list(Moment))
async def test_a_connection_breaks_at_the_moment_and_in_the_way_it_is_told(moment: Moment, reset: bool) -> None:
    async with running() as api:
        api.fault(Break(moment=moment, ending=Ending.RESET if reset else Ending.CLOSE))
        heard = await converse(api.gateway.url, sms_bytes("x"))
        assert heard.reset is reset
        headers, _, body = heard.data.partition(b"\r\n\r\n")
        match moment:
            case Moment.BEFORE_READ | Moment.BEFORE_EFFECT | Moment.BEFORE_ANSWER:
                assert heard.data == b""
            case Moment.HALF_STATUS_LINE:
                assert heard.data == STATUS_LINE[: len(STATUS_LINE) // 2]
            case Moment.AFTER_STATUS_LINE:
                assert heard.data == STATUS_LINE
            case Moment.AFTER_HEADERS:
                assert heard.data.startswith(STATUS_LINE)
                assert heard.data.endswith(b"\r\n\r\n")
                assert b"Content-Length: " in headers
            case Moment.HALF_BODY:
                announced = int(headers.partition(b"Content-Length: ")[2].split()[0])
                assert len(body) == announced // 2
                assert body.startswith(b'{"code":"ok"')
        happened = moment not in (Moment.BEFORE_READ, Moment.BEFORE_EFFECT)
        assert api.texts == (["x"] if happened else [])
        (logged,) = api.gateway.state.requests
        assert (logged.fault, logged.status) == ("break", None)


async def test_before_read_needs_no_body_and_before_effect_waits_for_it() -> None:
    async with running() as api:
        api.fault(Break(moment=Moment.BEFORE_READ))
        incomplete = sms_bytes("x", announced=100_000)
        assert (await converse(api.gateway.url, incomplete)).data == b""

        api.fault(Break(moment=Moment.BEFORE_EFFECT))
        reader, writer = await connect(api.gateway.url)
        request = sms_bytes("y")
        writer.write(request[:-5])
        await api.gateway.wait_until(lambda state: len(state.requests) == 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.write(request[-5:])
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as api:
        _, writer = await connect(api.gateway.url)
        writer.write(sms_bytes("x")[:-5])
        await api.gateway.wait_until(lambda state: len(state.requests) == 1)
        writer.close()
        await writer.wait_closed()
        assert (await api.sms("y")).status == 200
        assert api.texts == ["y"]
    assert caplog.records == []


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET])
async def test_garbage_comes_after_the_effect(ending: Ending) -> None:
    async with running() as api:
        api.fault(Garbage(ending=ending))
        heard = await converse(api.gateway.url, sms_bytes("x"))
        assert heard.data == Garbage().data
        assert not heard.data.startswith(b"HTTP")
        assert heard.reset is (ending is Ending.RESET)
        assert api.texts == ["x"]


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Break(moment=Moment.BEFORE_ANSWER), aiohttp.ServerDisconnectedError),
        (Break(moment=Moment.BEFORE_ANSWER, ending=Ending.RESET), aiohttp.ClientOSError),
        (Break(moment=Moment.HALF_STATUS_LINE), aiohttp.ServerDisconnectedError),
        (Break(moment=Moment.HALF_BODY), aiohttp.ClientPayloadError),
        (Garbage(), aiohttp.ClientResponseError),
    ],
)
async def test_an_http_client_sees_each_break_as_its_own_error(action: Action, error: type[Exception]) -> None:
    async with running() as api:
        api.fault(action)
        with pytest.raises(error):
            await api.sms("x")
        assert api.texts == ["x"]
        assert (await api.sms("y")).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("moment", "texts"), [(Moment.BEFORE_EFFECT, []), (Moment.BEFORE_ANSWER, ["x"]), (Moment.HALF_BODY, ["x"])]
)
async def test_a_black_hole_stays_silent_until_the_client_leaves(moment: Moment, texts: list[str]) -> None:
    async with running() as api:
        api.fault(Break(moment=moment, ending=Ending.HANG), port=Port.BACKUP, times=None)
        with pytest.raises(TimeoutError):
            await api.sms("x", backup=True, timeout=0.1)
        assert api.texts == texts
        assert (await api.sms("y")).status == 200


async def test_a_call_in_a_black_hole_ends_with_its_client() -> None:
    async with running() as api:
        api.fault(Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG), times=None)
        before = len(asyncio.all_tasks())
        _, writer = await connect(api.gateway.url)
        writer.write(sms_bytes("x"))
        await api.gateway.wait_until(lambda state: state.faults.fired == 1)
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.01)


async def test_an_idle_connection_is_closed_just_as_it_is_used_again() -> None:
    async with running() as api:
        api.fault(Break(moment=Moment.BEFORE_READ), reused=True)
        assert (await api.sms("first")).status == 200
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await api.sms("second")
        assert (await api.sms("third")).status == 200
        assert api.texts == ["first", "third"]


@pytest.mark.parametrize("moment", [Moment.BEFORE_READ, Moment.BEFORE_ANSWER])
async def test_a_fault_for_reused_connections_spares_new_ones(moment: Moment) -> None:
    async with running() as api:
        api.fault(Break(moment=moment), reused=True, times=None)
        for content in ("a", "b", "c"):
            heard = await converse(
                api.gateway.url, sms_bytes(content).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
            )
            assert heard.data.startswith(STATUS_LINE)
        assert api.texts == ["a", "b", "c"]


async def test_a_port_refuses_and_comes_back_at_the_same_number() -> None:
    async with running() as api:
        assert (await api.sms("a", backup=True)).status == 200
        url = api.gateway.backup_url
        api.gateway.refuse(Port.BACKUP)
        assert await refuses(api.gateway.backup_url)
        assert (await api.sms("b")).status == 200
        await api.gateway.reopen(Port.BACKUP)
        assert api.gateway.backup_url == url
        assert (await api.sms("c", backup=True)).status == 200
        assert api.texts == ["a", "b", "c"]


async def test_an_idle_connection_ends_when_its_port_begins_to_refuse() -> None:
    async with running() as api:
        reader, writer = await connect(api.gateway.url)
        writer.write(sms_bytes("x"))
        assert (await reader.readuntil(b"}}")).startswith(STATUS_LINE)
        api.gateway.refuse(Port.PRIMARY)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


async def test_a_refused_port_opens_again_by_itself() -> None:
    async with running() as api:
        api.gateway.refuse(Port.PRIMARY, seconds=0.05)
        assert await refuses(api.gateway.url)
        async with asyncio.timeout(5):
            while await refuses(api.gateway.url):
                await asyncio.sleep(0.01)
        assert (await api.sms()).status == 200


async def test_a_call_in_flight_is_answered_when_its_port_begins_to_refuse() -> None:
    async with running(latency=0.05) as api:
        sending = asyncio.create_task(api.sms("x"))
        await api.gateway.wait_for(1)
        api.gateway.refuse(Port.PRIMARY)
        got = await sending
        assert got.status == 200
        assert await refuses(api.gateway.url)


async def test_stopping_does_not_wait_for_calls_that_hang() -> None:
    async with aiohttp.ClientSession() as session:
        async with Gateway(GatewaySettings(latency=60)) as gateway:
            gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT, ending=Ending.HANG)))
            api = Api(gateway, session, None)  # type: ignore[arg-type]
            hanging = [asyncio.create_task(api.sms(str(n))) for n in range(3)]
            await gateway.wait_for(2)
            before = time.monotonic()
        assert time.monotonic() - before < 1
        ends = await asyncio.gather(*hanging, return_exceptions=True)
        assert [isinstance(end, aiohttp.ClientError) for end in ends] == [True] * 3

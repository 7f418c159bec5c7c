"""Programmed answers and delays, and which calls a fault strikes."""

import asyncio
import gzip
import re
from typing import Any

import aiohttp
import pytest

from listener.simulator.gateway import (
    TRUNCATED_JSON,
    Action,
    Answer,
    Break,
    Delay,
    Drip,
    Endpoint,
    Fault,
    Huge,
    ManyHeaders,
    Moment,
    Port,
    Request,
)
from tests.integration.gateway_client import PHONE, Api, running, sms_bytes


async def struck(api: Api, count: int, **sms: Any) -> list[int]:
    """Which of `count` SMS, counted from 1, got the programmed 418."""
    return [n for n in range(1, count + 1) if (await api.sms(**sms)).status == 418]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_looks_alike_before_and_after_the_effect(status: int, after: bool) -> None:
    async with running() as api:
        api.fault(Answer(status=status, after_effect=after))
        got = await api.sms("one")
        assert got.status == status
        if status == 500:
            assert got.body == b'{"code":"errors","message":"Internal Server Error"}'
        else:
            assert got.headers["Content-Type"].startswith("text/html")
            assert got.body.startswith(b"<html>")
        assert api.texts == (["one"] if after else [])
        assert (await api.sms("two")).status == 200
        assert api.gateway.state.counters().statuses == {status: 1, 200: 1}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (Answer(status=200, body=b"<html>hello</html>", content_type="text/html"), b"<html>hello</html>"),
        (Answer(status=200), b""),
        (Answer(status=200, body=TRUNCATED_JSON), TRUNCATED_JSON),
        (Answer(status=200, body=b'{"code":"ok"}{"code":"ok"}'), b'{"code":"ok"}{"code":"ok"}'),
        (Answer(status=401), b'{"code":"errors","message":"Unauthorized"}'),
        (Answer(status=403), b'{"code":"errors","message":"Forbidden"}'),
        (Answer(status=404), b'{"code":"errors","message":"Not found"}'),
        (Answer(status=422), b'{"code":"errors","message":"Unprocessable"}'),
        (Answer(status=429), b'{"code":"errors","message":"Too Many Attempts."}'),
        (Answer(status=400, message="Hết tiền"), b'{"code":"errors","message":"H\\u1ebft ti\\u1ec1n"}'),
        (Answer(status=599), b'{"code":"errors","message":"Error"}'),
    ],
)
async def test_any_answer_can_be_programmed(answer: Answer, body: bytes) -> None:
    async with running() as api:
        api.fault(answer)
        got = await api.sms()
        assert (got.status, got.body) == (answer.status, body)
        assert api.texts == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_points_where_it_is_told(status: int) -> None:
    async with running() as api:
        target = f"{api.gateway.backup_url}/acme/api/v1/groups"
        api.fault(Answer(status=status, headers={"Location": target}))
        got = await api.sms()
        assert (got.status, got.headers["Location"], got.body) == (status, target, b"")
        assert len(api.gateway.state.requests) == 1


async def test_a_programmed_429_counts_in_the_run_of_answers_and_starts_no_block() -> None:
    async with running(refusals_before_block=1) as api:
        api.fault(Answer(status=429), times=4)
        assert [(await api.sms()).status for _ in range(5)] == [429] * 4 + [200]
        counters = api.gateway.state.counters()
        assert (counters.longest_429_run, counters.blocks) == (4, 0)


@pytest.mark.parametrize("after", [False, True])
async def test_a_slow_call_is_accepted_although_the_client_gave_up(after: bool) -> None:
    async with running() as api:
        api.fault(Delay(seconds=0.3, after_effect=after))
        with pytest.raises(TimeoutError):
            await api.sms("late", timeout=0.1)
        assert api.texts == (["late"] if after else [])
        await api.gateway.wait_for(1)
        assert api.texts == ["late"]


async def test_a_delayed_answer_is_the_true_one() -> None:
    async with running() as api:
        for after in (False, True):
            api.fault(Delay(seconds=0.02, after_effect=after))
            assert (await api.sms()).json["code"] == "ok"


async def test_latency_delays_every_answer_but_not_its_effect() -> None:
    async with running(latency=30) as api:
        with pytest.raises(TimeoutError):
            await api.sms("slow", timeout=0.1)
        assert api.texts == ["slow"]
        assert (await api.sms(service_id=0)).status == 400


async def test_a_body_in_drips_arrives_whole_in_the_end() -> None:
    async with running() as api:
        api.fault(Drip(chunk=20, interval=0.005))
        got = await api.sms()
        assert got.json["code"] == "ok"
        assert got.headers["Content-Length"] == str(len(got.body))


async def test_a_body_in_drips_may_never_end() -> None:
    async with running() as api:
        api.fault(Drip(chunk=50, interval=0.005, forever=True))
        request = api.session.post(
            f"{api.gateway.url}/acme/api/v1/sms",
            data=sms_bytes().partition(b"\r\n\r\n")[2],
            headers={"Authorization": "Bearer demo-token"},
        )
        async with request as response:
            body = b""
            while len(body) < 1000:
                body += await response.content.readany()
            assert body.startswith(b'{"code":"ok"')
            assert body.endswith(b" " * 500)


async def test_a_huge_body_is_streamed_and_stops_when_the_client_leaves() -> None:
    async with running() as api:
        api.fault(Huge(size=2 * 1024**3))
        api.fault(Huge(size=300_000))
        async with api.session.get(
            f"{api.gateway.url}/acme/api/v1/groups", headers={"Authorization": "Bearer demo-token"}
        ) as response:
            assert response.content_length == 2 * 1024**3
            assert len(await response.content.readexactly(100_000)) == 100_000
            response.close()
        assert (await api.sms()).body == b" " * 300_000


async def test_a_gzip_bomb_is_small_on_the_wire_and_valid() -> None:
    size = 20 * 1024**2 + 5
    async with running() as api, aiohttp.ClientSession(auto_decompress=False) as session:
        api.fault(Huge(size=size, gzip=True))
        async with session.get(
            f"{api.gateway.url}/acme/api/v1/groups", headers={"Authorization": "Bearer demo-token"}
        ) as response:
            packed = await response.read()
            assert response.headers["Content-Encoding"] == "gzip"
        assert len(packed) < size / 500
        assert gzip.decompress(packed) == b" " * size


async def test_many_big_headers_come_with_the_true_answer() -> None:
    async with running() as api:
        api.fault(ManyHeaders(count=100, size=1000))
        got = await api.sms()
        assert got.json["code"] == "ok"
        assert [len(value) for name, value in got.headers.items() if name.startswith("X-Filler")] == [1000] * 100


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [1]),
        ({"times": 3}, [1, 2, 3]),
        ({"nth": 4}, [4]),
        ({"nth": 4, "times": 2}, [4, 5]),
        ({"every": 3, "times": None}, [3, 6, 9]),
        ({"nth": 2, "every": 3, "times": None}, [2, 5, 8]),
        ({"nth": 2, "every": 3, "times": 2}, [2, 5]),
        ({"probability": 0.0, "times": None}, []),
        ({"times": None}, list(range(1, 11))),
        ({"phone": "0911111111"}, []),
        ({"port": Port.BACKUP}, []),
        ({"endpoint": Endpoint.ZNS}, []),
        ({"phone": PHONE, "port": Port.PRIMARY, "endpoint": Endpoint.SMS, "content": "chào"}, [1]),
        ({"pattern": r"^Xin\b", "times": 2}, [1, 2]),
        ({"pattern": r"^chào"}, []),
    ],
)
async def test_a_fault_strikes_the_calls_it_names(conditions: dict[str, Any], expected: list[int]) -> None:
    async with running() as api:
        api.fault(Answer(status=418), **conditions)
        assert await struck(api, 10) == expected


async def test_a_fault_counts_only_the_calls_it_matches() -> None:
    async with running() as api:
        api.fault(Answer(status=418), phone="0911111111", nth=2)
        assert await struck(api, 3) == []
        assert await struck(api, 3, phone="0911111111") == [2]


async def test_probability_follows_the_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        async with running() as api:
            api.fault(Answer(status=418), probability=0.3, seed=seed, times=None)
            runs.append(await struck(api, 60))
    assert runs[0] == runs[1] != runs[2]
    assert 5 < len(runs[0]) < 35


async def test_of_several_faults_the_first_added_strikes_first() -> None:
    async with running() as api:
        api.fault(Answer(status=418))
        api.fault(Answer(status=503), times=2)
        assert [(await api.sms()).status for _ in range(4)] == [418, 503, 503, 200]


async def test_a_fault_until_cleared_goes_when_cleared() -> None:
    async with running() as api:
        api.fault(Answer(status=418), times=None)
        assert await struck(api, 3) == [1, 2, 3]
        api.gateway.state.faults.clear()
        assert await struck(api, 3) == []
        assert api.gateway.state.counters().faults_fired == 3


async def test_calls_that_a_check_refuses_meet_no_fault() -> None:
    async with running() as api:
        api.fault(Answer(status=418))
        assert (await api.sms(service_id=0)).status == 400
        assert (await api.call("GET", "groups", token="wrong")).status == 401
        api.gateway.block(10)
        assert (await api.sms()).status == 404
        api.gateway.block(0)
        assert (await api.sms()).status == 418


async def test_lookups_can_be_struck_too() -> None:
    async with running() as api:
        api.fault(Answer(status=503), endpoint=Endpoint.CONTACT_BY_PHONE, phone=PHONE)
        await api.sms()
        assert (await api.call("GET", f"contactsByPhone?phoneNo={PHONE}")).status == 503


@pytest.mark.parametrize(
    ("action", "conditions"),
    [
        (Answer(status=500), {"nth": 0}),
        (Answer(status=500), {"every": 0}),
        (Answer(status=500), {"times": 0}),
        (Answer(status=500), {"probability": 1.5}),
        (Answer(status=500), {"pattern": "("}),
        (Break(moment=Moment.BEFORE_READ), {"content": "x"}),
        (Break(moment=Moment.BEFORE_READ), {"phone": PHONE}),
    ],
)
def test_conditions_that_make_no_sense_are_refused(action: Action, conditions: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.compile("count from 1|between|regular|cannot depend")):
        Fault(action=action, **conditions)


async def test_the_hook_sees_each_request_read_and_before_its_effect() -> None:
    seen: list[tuple[int, str, int]] = []
    called, proceed = asyncio.Event(), asyncio.Event()

    async def hook(request: Request) -> None:
        seen.append((request.seq, request.content, len(api.gateway.state.ledger)))
        called.set()
        await proceed.wait()

    async with running(on_request=hook) as api:
        sending = asyncio.create_task(api.sms("watched"))
        async with asyncio.timeout(5):
            await called.wait()
        proceed.set()
        assert (await sending).status == 200
        assert (await api.call("GET", "groups", token="wrong")).status == 401
        assert seen == [(1, "watched", 0), (2, "", 1)]

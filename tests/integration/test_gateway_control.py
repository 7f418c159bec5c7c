"""The simulator's own API, and the gateway as a program."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest

from listener.errors import UsageError
from listener.simulator.gateway import GatewaySettings, serve
from tests.integration.gateway_client import PHONE, START, TOKEN, refuses, running


async def test_the_ledger_and_the_request_log_can_be_read_with_tokens_masked() -> None:
    async with running() as api:
        await api.sms("Xin chào")
        await api.call("GET", "groups", token="other-secret", backup=True)
        (entry,) = (await api.control("GET", "ledger")).json["ledger"]
        assert (entry["seq"], entry["request"], entry["at"], entry["port"]) == (1, 1, START, "primary")
        assert (entry["channel"], entry["service_id"], entry["phone"]) == ("sms", 12, PHONE)
        assert (entry["content"], entry["ticket_id_sent"], entry["ticket_id"]) == ("Xin chào", None, 1_000_001)
        log = await api.control("GET", "requests")
        first, second = log.json["requests"]
        assert (first["method"], first["path"], first["status"]) == ("POST", "/acme/api/v1/sms", 200)
        assert (second["port"], second["verdict"], second["status"]) == ("backup", "admitted", 401)
        assert first["authorization"] == second["authorization"] == "Bearer ***"
        assert TOKEN.encode() not in log.body
        assert b"other-secret" not in log.body


async def test_a_token_without_a_scheme_is_masked_too() -> None:
    async with running() as api:
        url = f"{api.gateway.url}/acme/api/v1/groups"
        async with api.session.get(url, headers={"Authorization": TOKEN}) as response:
            assert response.status == 401
        assert api.gateway.state.requests[0].authorization == "***"


async def test_half_a_surrogate_pair_in_a_text_keeps_nobody_from_reading_the_ledger() -> None:
    async with running() as api:
        text = "cut \ud83d"
        assert (await api.sms(text)).status == 200
        (entry,) = (await api.control("GET", "ledger")).json["ledger"]
        (request,) = (await api.control("GET", "requests")).json["requests"]
        assert entry["content"] == request["content"] == text


async def test_counters_tell_what_acceptance_tests_ask() -> None:
    async with running(per_second=3, refusals_before_block=2, block_seconds=60) as api:
        await api.sms("a")
        await api.sms("a")
        await api.sms("b")
        assert [(await api.sms()).status for _ in range(5)] == [429, 429, 404, 404, 404]
        assert (await api.control("GET", "counters")).json == {
            "requests": 8,
            "accepted": 3,
            "max_requests_per_second": 8,
            "consecutive_429s": 0,
            "longest_429_run": 2,
            "blocks": 1,
            "calls_during_block": 2,
            "statuses": {"200": 3, "429": 2, "404": 3},
            "faults_fired": 0,
            "duplicates": [{"phone": PHONE, "content": "a", "count": 2}],
        }


async def test_control_is_outside_limit_token_block_and_faults() -> None:
    async with running(per_second=0) as api:
        api.gateway.block()
        assert (await api.control("POST", "faults", {"action": {"kind": "answer", "status": 500}})).status == 200
        assert (await api.control("GET", "ledger")).status == 200
        counters = (await api.control("GET", "counters")).json
        assert (counters["requests"], counters["calls_during_block"]) == (0, 0)


async def test_reset_empties_everything_but_the_settings() -> None:
    async with running(latency=0.001) as api:
        await api.sms()
        await api.control("POST", "faults", {"action": {"kind": "answer", "status": 500}, "times": None})
        await api.control("POST", "clock", {"advance": 50})
        await api.control("POST", "port", {"port": "backup", "refuse": True})
        await api.control("POST", "block")
        assert (await api.control("POST", "reset")).status == 200
        assert (await api.control("GET", "ledger")).json == {"ledger": []}
        assert (await api.control("GET", "requests")).json == {"requests": []}
        got = await api.sms(backup=True)
        assert (got.status, got.json["ticket"]["ticket_no"]) == (200, 1)
        assert api.gateway.state.ledger[0].at == START
        assert (await api.control("GET", "settings")).json["latency"] == 0.001


@pytest.mark.parametrize(
    ("fault", "status", "texts"),
    [
        ({"action": {"kind": "answer", "status": 502, "after_effect": True}}, 502, ["x"]),
        ({"action": {"kind": "answer", "status": 200, "body": "<p>đã gửi"}, "phone": PHONE}, 200, []),
        ({"action": {"kind": "delay", "seconds": 0.01}, "content": "x"}, 200, ["x"]),
        ({"action": {"kind": "drip", "chunk": 50, "interval": 0.001}, "pattern": "^x$"}, 200, ["x"]),
        ({"action": {"kind": "huge", "size": 10}, "endpoint": "sms", "port": "primary"}, 200, ["x"]),
        ({"action": {"kind": "many_headers", "count": 3, "size": 9}, "nth": 1, "every": 2, "times": None}, 200, ["x"]),
    ],
)
async def test_faults_are_programmed_as_json(fault: dict[str, Any], status: int, texts: list[str]) -> None:
    async with running() as api:
        assert (await api.control("POST", "faults", fault)).status == 200
        assert (await api.sms("x")).status == status
        assert api.texts == texts
        assert api.gateway.state.counters().faults_fired == 1
        await api.control("DELETE", "faults")
        await api.sms("y")
        assert api.gateway.state.counters().faults_fired == 1


@pytest.mark.parametrize(
    "action", [{"kind": "break", "moment": "before_answer", "ending": "reset"}, {"kind": "garbage"}]
)
async def test_breaks_are_programmed_as_json(action: dict[str, str]) -> None:
    async with running() as api:
        await api.control("POST", "faults", {"action": action})
        with pytest.raises(aiohttp.ClientError):
            await api.sms("x")
        assert api.texts == ["x"]


async def test_settings_change_at_run_time_all_or_none() -> None:
    async with running() as api:
        changes = {"token": "new", "per_second": 1, "block_mode": "extended", "services": {"7": "SMS"}}
        assert (await api.control("POST", "settings", changes)).status == 200
        shown = (await api.control("GET", "settings")).json
        assert (shown["per_second"], shown["block_mode"], shown["services"]) == (1, "extended", {"7": "SMS"})
        assert (await api.sms()).status == 401
        refused: list[dict[str, Any]] = [
            {"latency": 5, "per_second": "many"},
            {"latency": 5, "colour": 1},
            {"clock": 1},
            {"webhook": {}},
            {"webhook": {"url": "http://127.0.0.1:1/", "copies": -1}},
            {"latency": float("nan")},
            {"per_second": -1},
            {"block_seconds": float("inf")},
            {"requests_kept": -1},
        ]
        for bad in refused:
            assert (await api.control("POST", "settings", bad)).status == 400
        assert api.gateway.state.settings.latency == 0
        assert (await api.control("POST", "reset")).status == 200


async def test_settings_are_shown_without_secrets() -> None:
    async with running() as api:
        webhook = {"url": "http://127.0.0.1:1/", "secret": "canary-secret"}
        await api.control("POST", "settings", {"webhook": webhook})
        shown = await api.control("GET", "settings")
        assert shown.json["webhook"]["url"] == webhook["url"]
        assert b"canary" not in shown.body
        assert TOKEN.encode() not in shown.body
        refused = await api.control("POST", "settings", {"token": ["canary-token"]})
        assert refused.status == 400
        assert b"canary" not in refused.body


async def test_a_block_can_be_started_lifted_and_waited_out_by_the_clock() -> None:
    async with running() as api:
        await api.control("POST", "block", {"seconds": 5})
        assert (await api.sms()).status == 404
        await api.control("POST", "block", {"seconds": 0})
        assert (await api.sms()).status == 200
        await api.control("POST", "block")
        assert (await api.sms()).status == 404
        assert (await api.control("POST", "clock", {"advance": 900})).json == {"now": START + 900}
        assert (await api.sms()).status == 200


async def test_a_port_refuses_and_opens_by_control() -> None:
    async with running() as api:
        assert (await api.control("POST", "port", {"port": "backup", "refuse": True})).status == 200
        assert await refuses(api.gateway.backup_url)
        await api.control("POST", "port", {"port": "backup", "refuse": False})
        assert (await api.sms(backup=True)).status == 200
        assert (await api.control("POST", "port", {"port": "primary", "refuse": True})).status == 400
        assert (await api.control("POST", "port", {"port": "primary", "refuse": True, "seconds": 60})).status == 200
        assert await refuses(api.gateway.url)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "nothing", None, 404),
        ("PUT", "ledger", None, 404),
        ("POST", "faults", {"action": {"kind": "earthquake"}}, 400),
        ("POST", "faults", {"action": {"kind": "answer", "status": 500}, "nht": 1}, 400),
        ("POST", "faults", {"action": {"kind": "answer", "status": 500}, "pattern": "("}, 400),
        ("POST", "faults", {"action": {"kind": "answer", "status": 0}}, 400),
        ("POST", "faults", {"action": {"kind": "answer", "status": 500, "headers": {"X": "a\r\nY: b"}}}, 400),
        ("POST", "faults", {"action": {"kind": "answer", "status": 500, "content_type": "a\nb"}}, 400),
        ("POST", "faults", {"action": {"kind": "delay", "seconds": float("nan")}}, 400),
        ("POST", "faults", {"action": {"kind": "drip", "chunk": 0}}, 400),
        ("POST", "faults", {"action": {"kind": "huge", "size": -1}}, 400),
        ("POST", "block", {"seconds": -1}, 400),
        ("POST", "clock", {"advance": -1}, 400),
        ("POST", "clock", {"advance": 1e12}, 400),
        ("POST", "port", {"port": "third", "refuse": True}, 400),
        ("POST", "settings", None, 400),
    ],
)
async def test_what_control_does_not_understand_it_refuses_with_a_reason(
    method: str, path: str, body: Any, status: int
) -> None:
    async with running() as api:
        got = await api.control(method, path, body)
        assert got.status == status
        assert got.json["error"]


async def test_the_request_log_keeps_the_newest() -> None:
    async with running(requests_kept=3) as api:
        for n in range(5):
            await api.sms(str(n))
        log = (await api.control("GET", "requests")).json["requests"]
        assert [request["content"] for request in log] == ["2", "3", "4"]
        assert (await api.control("GET", "counters")).json["requests"] == 5


async def test_serve_runs_until_stopped_and_frees_its_ports() -> None:
    stopping = asyncio.Event()
    lines: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(GatewaySettings(), 0, 0, stopping, lines.put_nowait))
    line = await asyncio.wait_for(lines.get(), 5)
    url = next(word.rstrip(",") for word in line.split() if word.startswith("http"))
    assert TOKEN not in line
    async with aiohttp.ClientSession() as session, session.get(f"{url}/_control/counters") as response:
        assert json.loads(await response.read())["requests"] == 0
    stopping.set()
    await asyncio.wait_for(serving, 5)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            await serve(GatewaySettings(), 0, port, asyncio.Event(), print)

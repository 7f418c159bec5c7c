"""The checks in front of every call: path, domain, token, rate limit, block, and their order."""

import asyncio
from typing import Any

import pytest

from listener.simulator.gateway import BlockMode, Verdict
from tests.integration.gateway_client import Api, running

BLOCKED = b'{"code":"errors","message":"Domain incorrect too many times , retry after 15 minutes "}'
TOO_MANY = b'{"code":"errors","message":"Too Many Attempts."}'


async def statuses(api: Api, count: int, **call: Any) -> list[int]:
    return [(await api.call("GET", "groups", **call)).status for _ in range(count)]


async def into_block(api: Api) -> None:
    """For a gateway of 1 call/s that blocks on the first refusal."""
    assert await statuses(api, 2) == [200, 404]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tickets"),
        ("GET", "tickets/custom_fields"),
        ("GET", "services"),
        ("GET", "agents"),
        ("GET", "groups"),
        ("POST", "search"),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_every_path_works_with_and_without_a_trailing_slash(method: str, path: str, slash: str) -> None:
    async with running() as api:
        got = await api.call(method, path + slash, {} if method == "POST" else None)
        assert (got.status, got.json["code"]) == (200, "ok")
        assert got.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["", "sms/1", "tickets/abc", "zalo", "SMS", "../v2/sms"])
async def test_an_unknown_path_is_a_plain_404(path: str) -> None:
    async with running() as api:
        got = await api.call("POST", path, {})
        assert (got.status, got.body) == (404, b'{"code":"errors","message":"Not found"}')


async def test_a_known_path_with_the_wrong_method_is_405() -> None:
    async with running() as api:
        assert (await api.call("GET", "sms")).status == 405


@pytest.mark.parametrize("domain", ["other", "ACME", "_control"])
async def test_an_unknown_domain_is_refused_on_both_ports(domain: str) -> None:
    async with running() as api:
        for backup in (False, True) if domain != "_control" else (True,):
            got = await api.call("GET", "groups", domain=domain, backup=backup)
            assert (got.status, got.body) == (404, b'{"code":"errors","message":"Domain incorrect"}')


@pytest.mark.parametrize("token", [None, "", "wrong", "demo-token2"])
async def test_a_missing_or_wrong_token_is_401_and_has_no_effect(token: str | None) -> None:
    async with running() as api:
        body = {"sms": {"service_id": 12, "content": "a", "phone": "0980000000"}}
        got = await api.call("POST", "sms", body, token=token)
        assert (got.status, got.body) == (401, b'{"code":"errors","message":"Unauthorized"}')
        assert api.gateway.state.ledger == []


async def test_a_token_is_reset_at_run_time() -> None:
    async with running() as api:
        api.gateway.change(token="second")
        assert (await api.sms()).status == 401
        assert (await api.call("GET", "groups", token="second")).status == 200


async def test_fifteen_calls_fit_into_a_sliding_second_over_both_ports_and_all_endpoints() -> None:
    async with running(per_second=15) as api:
        for n in range(5):
            assert (await api.sms(str(n))).status == 200
        assert await statuses(api, 10, backup=True) == [200] * 10
        refused = await api.sms("one too many", backup=True)
        assert (refused.status, refused.body) == (429, TOO_MANY)
        assert "Retry-After" not in refused.headers
        assert api.texts == ["0", "1", "2", "3", "4"]


async def test_the_second_slides() -> None:
    async with running(per_second=2) as api:
        assert await statuses(api, 1) == [200]
        api.clock.now += 0.6
        assert await statuses(api, 2) == [200, 429]
        api.clock.now += 0.4
        assert await statuses(api, 2) == [200, 429]


async def test_refused_calls_use_no_quota() -> None:
    async with running(per_second=1) as api:
        assert await statuses(api, 3) == [200, 429, 429]
        api.clock.now += 1
        assert await statuses(api, 1) == [200]


async def test_the_hour_has_its_own_limit() -> None:
    async with running(per_second=2, per_hour=3) as api:
        assert await statuses(api, 2) == [200, 200]
        api.clock.now += 1
        assert await statuses(api, 2) == [200, 429]
        api.clock.now += 3598.9
        assert await statuses(api, 1) == [429]
        api.clock.now += 0.1
        assert await statuses(api, 2) == [200, 200]


async def test_retry_after_is_sent_when_set() -> None:
    async with running(per_second=0, retry_after=7) as api:
        assert (await api.sms()).headers["Retry-After"] == "7"


async def test_twenty_429s_in_a_row_then_the_block_byte_for_byte_on_both_ports() -> None:
    async with running(per_second=1) as api:
        assert await statuses(api, 21) == [200] + [429] * 20
        for backup in (False, True):
            blocked = await api.sms(backup=backup)
            assert (blocked.status, blocked.body) == (404, BLOCKED)
        api.clock.now += 899.9
        assert (await api.sms()).body == BLOCKED
        api.clock.now += 0.1
        assert (await api.sms()).status == 200
        counters = api.gateway.state.counters()
        assert (counters.longest_429_run, counters.blocks, counters.calls_during_block) == (20, 1, 2)


async def test_the_threshold_is_a_setting_and_a_call_within_quota_resets_the_run() -> None:
    async with running(per_second=1, refusals_before_block=2) as api:
        for _ in range(3):
            assert await statuses(api, 3) == [200, 429, 429]
            api.clock.now += 1
        assert await statuses(api, 4) == [200, 429, 429, 404]


async def test_after_a_block_the_run_of_429s_starts_anew() -> None:
    async with running(per_second=1, refusals_before_block=1, block_seconds=5) as api:
        assert await statuses(api, 3) == [200, 429, 404]
        api.clock.now += 5
        assert await statuses(api, 2) == [200, 429]


async def test_calls_during_a_block_prolong_it_only_in_mode_extended() -> None:
    for mode, after in ((BlockMode.FIXED, 200), (BlockMode.EXTENDED, 404)):
        async with running(per_second=1, refusals_before_block=0, block_seconds=10, block_mode=mode) as api:
            await into_block(api)
            api.clock.now += 6
            assert await statuses(api, 1) == [404]
            api.clock.now += 6
            assert await statuses(api, 1) == [after]


async def test_each_block_is_twice_as_long_in_mode_doubling() -> None:
    settings: dict[str, Any] = {
        "per_second": 1,
        "refusals_before_block": 0,
        "block_seconds": 10,
        "block_mode": BlockMode.DOUBLING,
    }
    async with running(**settings) as api:
        for length in (10, 20, 40):
            await into_block(api)
            api.clock.now += length - 0.5
            assert await statuses(api, 1) == [404]
            api.clock.now += 1


async def test_the_minutes_in_the_message_follow_their_own_setting() -> None:
    async with running(per_second=0, refusals_before_block=0, block_seconds=60, block_message_minutes=1) as api:
        assert (await api.sms()).json["message"] == "Domain incorrect too many times , retry after 1 minutes "


async def test_the_order_is_block_domain_rate_token_path_body() -> None:
    async with running(per_second=1) as api:
        nonsense: dict[str, Any] = {"domain": "other", "token": "wrong"}
        assert (await api.call("POST", "nowhere", b"x", **nonsense)).json["message"] == "Domain incorrect"
        assert (await api.call("POST", "nowhere", b"x", token="wrong")).status == 401
        assert (await api.call("POST", "nowhere", b"x", token="wrong")).status == 429
        api.clock.now += 1
        assert (await api.call("POST", "nowhere", b"x")).json["message"] == "Not found"
        api.clock.now += 1
        assert (await api.call("POST", "sms", b"x")).status == 400
        api.gateway.block()
        assert (await api.call("POST", "nowhere", b"x", **nonsense)).body == BLOCKED
        verdicts = [request.verdict for request in api.gateway.state.requests]
        assert verdicts == [
            None,
            Verdict.ADMITTED,
            Verdict.TOO_MANY,
            Verdict.ADMITTED,
            Verdict.ADMITTED,
            Verdict.BLOCKED,
        ]


async def test_concurrent_calls_never_get_more_than_the_limit() -> None:
    async with running(per_second=15, refusals_before_block=1000) as api:
        answers = await asyncio.gather(*(api.sms(str(n), backup=n % 2 == 0) for n in range(60)))
        assert sorted(got.status for got in answers) == [200] * 15 + [429] * 45
        assert len(api.texts) == 15
        assert api.gateway.state.counters().max_requests_per_second == 60

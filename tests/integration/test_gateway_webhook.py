"""The events the gateway sends after it accepted a message."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from listener.simulator.gateway import WebhookSettings, signature
from tests.integration.gateway_client import PHONE, START, running


@dataclass(slots=True)
class Inbox:
    """What arrived at the address the webhook is sent to."""

    url: str = ""
    events: list[tuple[bytes, str | None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for(self, count: int) -> list[str]:
        """The contents of the events once `count` have come."""
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self.changed.clear()
                await self.changed.wait()
        return [json.loads(body)["ticket"]["ticket_comment"]["comment"] for body, _ in self.events]


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()

    async def receive(request: web.BaseRequest) -> web.Response:
        inbox.events.append((await request.read(), request.headers.get("X-Hub-Signature")))
        inbox.changed.set()
        return web.Response(status=500)

    runner = web.ServerRunner(web.Server(receive))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    inbox.url = f"http://127.0.0.1:{site.port}/hook"
    yield inbox
    await runner.cleanup()


def test_the_signature_is_the_documented_one() -> None:
    assert signature("CS123", b'{"ticket_id":1}') == "420A69CE7D3C36559E9828D6361530DF30065D37"


async def test_an_event_tells_of_a_new_and_of_an_updated_ticket(inbox: Inbox) -> None:
    async with running(webhook=WebhookSettings(url=inbox.url, secret="s3")) as api:
        ticket = (await api.sms("one")).json["ticket"]
        await api.sms("two", ticket_id=ticket["ticket_id"])
        assert await inbox.wait_for(2) == ["one", "two"]
        created, updated = (json.loads(body) for body, _ in inbox.events)
        assert (created["object"], created["action"], updated["action"]) == ("ticket", "create", "update")
        assert {key: created["ticket"][key] for key in ticket} == ticket
        assert (created["user"]["phone_no"], created["user"]["created_at"]) == (PHONE, int(START * 1000))
        for body, sent in inbox.events:
            assert sent == hmac.new(b"s3", body, hashlib.sha1).hexdigest().upper()


async def test_refused_messages_send_no_event_and_no_secret_means_no_signature(inbox: Inbox) -> None:
    async with running(webhook=WebhookSettings(url=inbox.url)) as api:
        assert (await api.sms(service_id=0)).status == 400
        await api.sms("good")
        assert await inbox.wait_for(1) == ["good"]
        assert inbox.events[0][1] is None


async def test_events_may_be_repeated_reordered_and_mis_signed(inbox: Inbox) -> None:
    webhook = WebhookSettings(url=inbox.url, secret="s3", copies=2, reorder=2, mis_sign=True, delay=0.01)
    async with running(webhook=webhook) as api:
        await api.sms("one")
        await api.sms("two")
        assert await inbox.wait_for(4) == ["two", "two", "one", "one"]
        for body, sent in inbox.events:
            assert sent is not None
            assert sent != signature("s3", body)


async def test_events_may_be_dropped_by_chance(inbox: Inbox) -> None:
    async with running(webhook=WebhookSettings(url=inbox.url, drop=0.5, seed=3)) as api:
        for n in range(20):
            await api.sms(str(n))
        api.gateway.change(webhook=WebhookSettings(url=inbox.url))
        await api.sms("last")
        async with asyncio.timeout(10):
            while "last" not in await inbox.wait_for(1):
                inbox.changed.clear()
                await inbox.changed.wait()
        assert 3 < len(inbox.events) < 18


async def test_a_listener_that_is_not_there_does_not_disturb_the_gateway(inbox: Inbox) -> None:
    async with running(webhook=WebhookSettings(url="http://127.0.0.1:1/hook")) as api:
        await api.sms("lost")
        api.gateway.change(webhook=WebhookSettings(url=inbox.url))
        await api.sms("found")
        assert await inbox.wait_for(1) == ["found"]

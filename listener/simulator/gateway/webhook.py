"""Sends `ticket` events to a listener of ours, as CareSoft's webhook does after an SMS.

Documented: the shape, and `X-Hub-Signature` = uppercase hex HMAC-SHA1 of the raw body. Assumed: the value of
`ticket_source`, one try and no more, and no header without a secret.
"""

import asyncio
import hashlib
import hmac
import random

import aiohttp

from listener.simulator.gateway.replies import dump
from listener.simulator.gateway.settings import WebhookSettings
from listener.simulator.gateway.state import AGENT_ID, LedgerEntry, State
from listener.simulator.gateway.times import local_stamp

_TIMEOUT = aiohttp.ClientTimeout(total=5)


def signature(secret: str, body: bytes) -> str:
    """The documented `X-Hub-Signature`."""
    return hmac.new(secret.encode(), body, hashlib.sha1).hexdigest().upper()


def event(state: State, entry: LedgerEntry) -> bytes:
    """The event of one accepted message."""
    ticket = state.tickets[entry.ticket_id]
    requester = state.contacts[ticket.requester_id]
    return dump(
        {
            "object": "ticket",
            "action": "update" if entry.ticket_id == entry.ticket_id_sent else "create",
            "ticket": {
                "ticket_id": ticket.ticket_id,
                "ticket_no": ticket.ticket_no,
                "requester_id": ticket.requester_id,
                "assignee_id": AGENT_ID,
                "service_id": ticket.service_id,
                "ticket_priority": ticket.priority,
                "ticket_source": ticket.source,
                "ticket_source_end_status": None,
                "ticket_status": ticket.status,
                "ticket_subject": ticket.subject,
                "addition_fields": [],
                "ticket_comment": {
                    "id": entry.comment_id,
                    "comment": entry.content,
                    "created_at": local_stamp(entry.at),
                },
            },
            "user": {
                "id": requester.id,
                "username": requester.username,
                "phone_no": entry.phone,
                "created_at": int(requester.created_at * 1000),
            },
        }
    )


class WebhookSender:
    """Sends the events it is told of, one after the other; what the other side answers does not matter."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[WebhookSettings, bytes]] = asyncio.Queue()
        self._rng = random.Random()
        self._seed: int | None = None

    def tell(self, state: State, entry: LedgerEntry) -> None:
        """Queues the event of an accepted message, if the settings name a listener."""
        settings = state.settings.webhook
        if settings is None:
            return
        if settings.seed != self._seed:
            self._seed = settings.seed
            self._rng.seed(settings.seed)
        if self._rng.random() >= settings.drop:
            self._events.put_nowait((settings, event(state, entry)))

    async def run(self) -> None:
        """Sends until cancelled."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
            while True:
                batch = [await self._events.get()]
                while len(batch) < batch[0][0].reorder:
                    batch.append(await self._events.get())
                for settings, body in reversed(batch):
                    await asyncio.sleep(settings.delay)
                    for _ in range(settings.copies):
                        await self._post(session, settings, body)

    @staticmethod
    async def _post(session: aiohttp.ClientSession, settings: WebhookSettings, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if settings.secret is not None:
            secret = f"not-{settings.secret}" if settings.mis_sign else settings.secret
            headers["X-Hub-Signature"] = signature(secret, body)
        try:
            async with session.post(settings.url, data=body, headers=headers, allow_redirects=False):
                pass
        except (aiohttp.ClientError, TimeoutError):
            # An event that does not arrive is lost: no retry is documented.
            return

"""All that the two ports share: tickets, contacts, the ledger of accepted messages, the request log, the limiter.

Nothing here does I/O. Times are seconds since the epoch on the gateway's clock.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from listener.simulator.gateway.faults import FaultQueue
from listener.simulator.gateway.limits import Limiter, SlidingWindow, Verdict
from listener.simulator.gateway.settings import GatewaySettings, Port

AGENT_ID = 90_001
"""The one agent every ticket is assigned to."""


class Channel(StrEnum):
    """What kind of message a ledger entry is."""

    SMS = "sms"
    ZNS = "zns"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One accepted message; the gateway never takes it back."""

    seq: int
    """From 1, in the order of acceptance."""
    request: int
    """`seq` of the request that brought it."""
    at: float
    port: Port
    channel: Channel
    service_id: int | None
    """None for ZNS."""
    template_id: int | None
    """None for SMS."""
    phone: str
    """As sent."""
    content: str
    """The text; for ZNS its params as JSON with sorted keys."""
    ticket_id_sent: int | None
    """None when the key was absent, null, 0 or empty."""
    ticket_id: int
    """As answered."""
    comment_id: int
    body: str
    """The request's body."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One API request; its outcome is filled in as it becomes known."""

    seq: int
    at: float
    port: Port
    method: str
    path: str
    """With the query."""
    authorization: str
    """The scheme and `***`, or empty."""
    phone: str = ""
    content: str = ""
    verdict: Verdict | None = None
    """None when an unknown domain kept the call from the limiter."""
    fault: str | None = None
    """Kind of the fault that struck it."""
    status: int | None = None
    """Status of the answer handed to the connection; None while there is none, and for a broken one."""


@dataclass(slots=True, kw_only=True)
class Comment:
    """One message or note on a ticket."""

    id: int
    text: str
    source: str
    created_at: float
    is_public: bool = True


@dataclass(slots=True, kw_only=True)
class Contact:
    """A person, known by any of the phones."""

    id: int
    username: str
    email: str | None
    phones: list[str]
    """Up to three, as first given."""
    created_at: float


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A service desk ticket."""

    ticket_id: int
    ticket_no: int
    subject: str
    requester_id: int
    service_id: int | None
    source: str
    created_at: float
    updated_at: float
    status: str = "new"
    priority: str = "Normal"
    custom_fields: dict[int, str] = field(default_factory=dict)
    comments: list[Comment] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A text that one phone was sent more than once."""

    phone: str
    content: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What acceptance tests assert on, since the last reset."""

    requests: int
    accepted: int
    max_requests_per_second: int
    """Most API requests that arrived in any sliding second, refused ones too."""
    consecutive_429s: int
    """The limiter's run of refusals right now."""
    longest_429_run: int
    """Most 429 answers in a row, programmed ones too."""
    blocks: int
    calls_during_block: int
    """Calls that arrived while a block ran; the one that started it is not counted."""
    statuses: dict[int, int]
    """Answers by HTTP status."""
    faults_fired: int
    duplicates: list[Duplicate]


def local_phone(phone: str) -> str:
    """The form phones are compared in: `+84` or `84` at the front becomes `0`."""
    # A plus sign that a query string did not escape arrives as a blank.
    digits = phone.strip().removeprefix("+")
    return f"0{digits[2:]}" if digits.startswith("84") else digits


class State:
    """The gateway's memory; `reset` empties it and keeps the settings."""

    def __init__(self, settings: GatewaySettings, on_accepted: Callable[["State", LedgerEntry], None]) -> None:
        self.settings = settings
        self._on_accepted = on_accepted
        self.changed = asyncio.Event()
        """Set whenever a request arrives, is struck by a fault, accepted or answered; whoever waits clears it first."""
        self.reset()

    def reset(self) -> None:
        """Forgets messages, tickets, contacts, requests, counters, faults, a running block and clock advances."""
        self.ledger: list[LedgerEntry] = []
        self.requests: deque[Request] = deque(maxlen=self.settings.requests_kept)
        self.tickets: dict[int, Ticket] = {}
        self.contacts: dict[int, Contact] = {}
        self.limiter = Limiter()
        self.faults = FaultQueue()
        self._clock_offset = 0.0
        self._contact_by_phone: dict[str, Contact] = {}
        self._arrivals = SlidingWindow(1.0)
        self._arrived = 0
        self._comments = 0
        self._429_run = 0
        self._longest_429_run = 0
        self._calls_during_block = 0
        self._statuses: Counter[int] = Counter()
        self.changed.set()

    def now(self) -> float:
        """The gateway's time."""
        return self.settings.clock() + self._clock_offset

    def advance(self, seconds: float) -> None:
        """Moves the gateway's time forward; delays and latency are not shortened by it."""
        self._clock_offset += seconds

    # -- requests

    def arrived(self, port: Port, method: str, path: str, authorization: str) -> Request:
        """Logs an API request on its arrival."""
        now = self.now()
        self._arrivals.add(now)
        self._arrived += 1
        scheme, _, secret = authorization.partition(" ")
        request = Request(
            seq=self._arrived,
            at=now,
            port=port,
            method=method,
            path=path,
            authorization=f"{scheme} ***" if secret else "***" if scheme else "",
        )
        self.requests.append(request)
        self.changed.set()
        return request

    def is_blocked(self, request: Request) -> bool:
        """Whether a block runs; counts the call that meets one."""
        if not self.limiter.is_blocked(request.at, self.settings):
            return False
        request.verdict = Verdict.BLOCKED
        self._calls_during_block += 1
        return True

    def admit(self, request: Request) -> Verdict:
        """Asks the limiter."""
        request.verdict = self.limiter.admit(request.at, self.settings)
        return request.verdict

    def struck(self, request: Request, kind: str) -> None:
        """Notes that a fault of this kind strikes a request."""
        request.fault = kind
        self.changed.set()

    def answered(self, request: Request, status: int) -> None:
        """Notes the status of an answer that is about to be written."""
        request.status = status
        self._statuses[status] += 1
        self._429_run = self._429_run + 1 if status == 429 else 0
        self._longest_429_run = max(self._longest_429_run, self._429_run)
        self.changed.set()

    def counters(self) -> Counters:
        """A picture of the counters now."""
        sent = Counter((entry.phone, entry.content) for entry in self.ledger)
        return Counters(
            requests=self._arrived,
            accepted=len(self.ledger),
            max_requests_per_second=self._arrivals.peak,
            consecutive_429s=self.limiter.consecutive_refusals,
            longest_429_run=self._longest_429_run,
            blocks=self.limiter.blocks,
            calls_during_block=self._calls_during_block,
            statuses=dict(self._statuses),
            faults_fired=self.faults.fired,
            duplicates=[
                Duplicate(phone=phone, content=content, count=count)
                for (phone, content), count in sent.items()
                if count > 1
            ],
        )

    async def wait_until(self, holds: Callable[["State"], bool], timeout: float) -> None:
        """Returns once `holds` does, asked at every change. Raises TimeoutError after `timeout` s."""
        async with asyncio.timeout(timeout):
            while True:
                self.changed.clear()
                if holds(self):
                    return
                await self.changed.wait()

    # -- contacts, tickets, messages

    def contact_with(self, phone: str) -> Contact | None:
        """The contact that has this phone."""
        return self._contact_by_phone.get(local_phone(phone))

    def add_contact(self, *phones: str, username: str = "", email: str | None = None) -> Contact:
        """A new contact; the caller has checked that the phones are free."""
        contact = Contact(
            id=self.settings.first_contact_id + len(self.contacts),
            username=username or (phones[0] if phones else ""),
            email=email,
            phones=list(phones),
            created_at=self.now(),
        )
        self.contacts[contact.id] = contact
        self._contact_by_phone.update((local_phone(phone), contact) for phone in phones)
        return contact

    def add_ticket(self, *, subject: str, requester_id: int, source: str, service_id: int | None = None) -> Ticket:
        """A new ticket with the next id and number, in status `new`."""
        now = self.now()
        ticket = Ticket(
            ticket_id=self.settings.first_ticket_id + len(self.tickets),
            ticket_no=self.settings.first_ticket_no + len(self.tickets),
            subject=subject,
            requester_id=requester_id,
            service_id=service_id,
            source=source,
            created_at=now,
            updated_at=now,
        )
        self.tickets[ticket.ticket_id] = ticket
        return ticket

    def comment(self, ticket: Ticket, text: str, source: str, *, is_public: bool = True) -> Comment:
        """Appends a comment and moves the ticket's `updated_at`."""
        self._comments += 1
        now = self.now()
        comment = Comment(id=self._comments, text=text, source=source, created_at=now, is_public=is_public)
        ticket.comments.append(comment)
        ticket.updated_at = now
        return comment

    def accept(
        self,
        request: Request,
        *,
        channel: Channel,
        phone: str,
        content: str,
        body: str,
        ticket_id_sent: int | None,
        service_id: int | None = None,
        template_id: int | None = None,
    ) -> LedgerEntry:
        """Takes a message: onto the ticket asked for if there is one, else onto a new one; never deduplicated."""
        ticket = self.tickets.get(ticket_id_sent) if ticket_id_sent is not None else None
        if ticket is None:
            requester = self.contact_with(phone) or self.add_contact(phone)
            ticket = self.add_ticket(
                subject=content[:255], requester_id=requester.id, source=channel.value, service_id=service_id
            )
        comment = self.comment(ticket, content, channel.value)
        entry = LedgerEntry(
            seq=len(self.ledger) + 1,
            request=request.seq,
            at=comment.created_at,
            port=request.port,
            channel=channel,
            service_id=service_id,
            template_id=template_id,
            phone=phone,
            content=content,
            ticket_id_sent=ticket_id_sent,
            ticket_id=ticket.ticket_id,
            comment_id=comment.id,
            body=body,
        )
        self.ledger.append(entry)
        self._on_accepted(self, entry)
        self.changed.set()
        return entry

"""How the simulated gateway behaves: one frozen value, replaced whole when a setting changes at run time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

# What the control API may be told. Thirty years at most, since dates end and the API writes them.
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0)]


class Port(StrEnum):
    """The two hosts of the real API, here two ports that share one state."""

    PRIMARY = "primary"
    BACKUP = "backup"


class BlockMode(StrEnum):
    """What makes a block longer; the real rule is not documented."""

    FIXED = "fixed"
    EXTENDED = "extended"
    """Every call during the block starts its time again."""
    DOUBLING = "doubling"
    """Each block since the last reset is twice as long as the one before."""


class UnknownTicket(StrEnum):
    """What a send to a ticket that does not exist gets."""

    REFUSE = "refuse"
    NEW = "new"
    """200 with a new ticket, whose id is not the one that was asked for."""


class ClosedTicket(StrEnum):
    """What a send to a ticket in status `closed` gets."""

    ACCEPT = "accept"
    REFUSE = "refuse"


SMS = "SMS"
"""The name that marks a service as one that sends SMS."""

SERVICE_TYPES: Mapping[str, int] = {
    "CALL_IN": 1,
    "CHAT": 2,
    "EMAIL": 3,
    "FACEBOOK": 4,
    "API": 9,
    "ZALO": 10,
    "CALL_OUT": 11,
    SMS: 14,
}
"""Service name to `service_type`. The number for SMS is assumed, the others are seen in client code."""


def steady_clock() -> Callable[[], float]:
    """A clock in seconds since the epoch that never steps back: the wall clock now, then the monotonic clock."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where and how `ticket` events are sent after an accepted SMS."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str
    secret: str | None = field(default=None, repr=False)
    """Key of the signature; without one no signature header is sent (assumed)."""
    delay: Seconds = 0.0
    """Seconds before each event is sent."""
    copies: Count = 1
    """How often each event is sent."""
    reorder: Annotated[int, Field(ge=1)] = 1
    """Events collected before they are sent, newest first; 1 keeps the order."""
    drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that an event is not sent at all."""
    mis_sign: bool = False
    """Sign with a wrong key."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """All settings; every one but `clock` may be changed while the gateway runs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    domain: str = "acme"
    token: str = field(default="demo-token", repr=False)
    services: Mapping[int, str] = field(default_factory=lambda: {12: SMS})
    """Service id to a name of SERVICE_TYPES."""
    list_sms_services: bool = True
    """Whether `GET services` names the SMS services; undocumented for the real API."""
    zns_templates: tuple[int, ...] = (301,)

    per_second: Count | None = 15
    """Calls admitted in any sliding second; None switches this window off."""
    per_hour: Count | None = 54_000
    """Calls admitted in any sliding hour; None switches this window off."""
    refusals_before_block: Count = 20
    """429s in a row that are still 429; the next refused call starts the block. The docs also allow 21."""
    block_seconds: Seconds = 900.0
    block_mode: BlockMode = BlockMode.FIXED
    block_message_minutes: Count = 15
    """The minutes the block's message names, whatever the block's true length."""
    retry_after: Count | None = None
    """Seconds in a `Retry-After` header on every 429; the docs know no such header."""

    unknown_ticket: UnknownTicket = UnknownTicket.REFUSE
    closed_ticket: ClosedTicket = ClosedTicket.ACCEPT
    refusal_status: Literal[200, 400] = 400
    """HTTP status of a refused body; the JSON says `errors` either way."""
    contact_miss_status: Literal[200, 404] = 200
    ticket_miss_status: Literal[404, 500] = 404
    sms_max: Count = 1000
    """Longest content in Unicode code points."""
    latency: Seconds = 0.0
    """Seconds between the effect of a call that no fault strikes and its answer; refusals come at once."""

    first_ticket_id: Count = 1_000_001
    first_ticket_no: Count = 1
    first_contact_id: Count = 5_000_001
    requests_kept: Count = 100_000
    """Length of the request log; the oldest entries go first. Takes effect at a reset."""
    webhook: WebhookSettings | None = None
    clock: Callable[[], float] = field(default_factory=steady_clock, repr=False)
    """Seconds since the epoch, never stepping back."""

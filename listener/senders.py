"""One account as this process knows it: how much of it is on its way, and what its requests need."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from listener.caresoft import Access
from listener.pacing import Punctuality
from listener.rules import Account

# requests on their way per account and replica: 12/s at 10 s an answer
IN_FLIGHT = 128
# of these, requests of which not a byte is written yet: what a stuck network may let go at once. So many, or two thirds
# of what the account may send in a second.
UNWRITTEN = 8


@dataclass(slots=True)
class Sender:
    """One account in this process."""

    account: Account | None = None
    token_print: str | None = None
    # what requests need, as its loop last read it: a second ago at most. None while that cannot be had
    access: Access | None = None
    # set when there may be something to do
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    # nothing was to be done, and nobody said that there is: look before permits are asked for
    quiet: bool = False
    punctuality: Punctuality = field(default_factory=Punctuality)
    in_flight: int = 0
    unwritten: int = 0
    # permits that are being asked for
    asked: int = 0
    may_be_unwritten: int = UNWRITTEN
    # nothing goes at once before this time, monotonic: as far as is known there is no slot, or others wait for one
    at_once_from: float = float("-inf")
    # when its loop last turned, and when it last turned and could have sent something
    turned_at: float = field(default_factory=monotonic)
    moved_at: float = field(default_factory=monotonic)

    @property
    def room(self) -> int:
        """How many more permits can be used at once."""
        return min(IN_FLIGHT - self.in_flight, self.may_be_unwritten - self.unwritten) - self.asked

    @property
    def batch(self) -> int:
        """How many permits are asked for at most, so that some are used while others are asked for."""
        return self.may_be_unwritten // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What requests of one lease need; the age of their slots counts from `asked_at`, monotonic. None begins when it is
    `margin` seconds old: it could not end before its permit does."""

    access: Access
    asked_at: float
    margin: float

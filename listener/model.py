"""The nouns on the way of the data, and the closed sets they are in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeAlias


class Op(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows that such a change has."""
        return {Op.INSERT: ("new",), Op.UPDATE: ("old", "new"), Op.DELETE: ("old",)}[self]


class State(StrEnum):
    """Where a message is; the first four are unfinished."""

    WAITING = "waiting"
    SENDING = "sending"
    UNKNOWN = "unknown"
    HELD = "held"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    SUPPRESSED = "suppressed"
    SHADOW = "shadow"


UNFINISHED = frozenset({State.WAITING, State.SENDING, State.UNKNOWN, State.HELD})


class Mode(StrEnum):
    """Where messages go; `LISTENER_MODE` for the whole daemon, `mode:` for a rule. The more careful one wins."""

    LIVE = "live"
    ALLOWLIST = "allowlist"
    REDIRECT = "redirect"
    SHADOW = "shadow"

    def or_more_careful(self, other: "Mode") -> "Mode":
        return max(self, other, key=_CARE.__getitem__)


_CARE = {mode: care for care, mode in enumerate(Mode)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One captured change. `old` is None for an insert, `new` for a delete; numbers are `Decimal`."""

    id: int
    watch: str
    op: Op
    key: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any], *, id_column: str = "id") -> "Change":
        """A change as a row of the outbox or of the history holds it."""
        return cls(
            id=row[id_column],
            watch=row["watch"],
            op=Op(row["op"]),
            key=row["key"],
            old=row["old"],
            new=row["new"],
            at=row["at"],
        )

    @property
    def thread(self) -> str:
        """The thread of its messages, unless a rule names another."""
        return f"{self.watch}:{self.key}"

    @property
    def row(self) -> Mapping[str, Any]:
        """The row that lookups take their parameters from: the new one, for a delete the old one."""
        return self.new if self.new is not None else self.old or {}


def key_text(columns: Sequence[str], row: Mapping[str, Any]) -> str:
    """The key of a made-up row as the capture trigger would write it; without columns the row's first value."""
    values = [_plain(row.get(column)) for column in columns] or [_plain(next(iter(row.values()), None))]
    if len(values) == 1:
        return values[0]
    return "/".join(value.replace("\\", r"\\").replace("/", r"\/") for value in values)


def _plain(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The permit to write one request for one message."""

    message_id: int
    permit: int
    lease: int
    leased_at: datetime
    thread_id: int
    account: str
    rule: str = ""
    phone: str = ""
    text: str = ""
    ticket: int | None = None
    # of a late message that is to be rechecked: the values it was made of, and where they stand
    recheck: Mapping[str, Any] | None = None
    watch: str = ""
    key: str = ""


# What came of a request. The gateway's own words are kept short and without phone numbers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """CareSoft has it: never send again."""

    ticket: int
    status: int = 200
    # how this is known, when it is not the answer that says so
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """This text to this number will never go."""

    reason: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRefused:
    """Refused for the ticket it named: once more without."""

    reason: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """Not a byte was written, for a reason of our own (slot too old, stopping): again at once."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """Not a byte was written, because what the message says is no longer true."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """Not a byte was written, because nobody could see whether what the message says is still true, or because this
    daemon's mode keeps its phone from any: again later."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """Not a byte was written: no connection, no name, no TLS."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """429: refused before acceptance. `retry_after` in seconds, if the gateway said so."""

    retry_after: float | None
    status: int = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedOut:
    """The 404 that means "called too often": nobody may call for `minutes`."""

    minutes: int
    status: int = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorized:
    """401/403: the token is refused."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Misconfigured:
    """Any other refusal that is about the account or the address, not about this message."""

    reason: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Perhaps sent, the answer was not seen or not understood: never resent by itself."""

    cause: str
    status: int | None = None


Outcome: TypeAlias = (
    Accepted
    | Rejected
    | TicketRefused
    | NotSent
    | Stale
    | Unchecked
    | Unreachable
    | RateLimited
    | LockedOut
    | Unauthorized
    | Misconfigured
    | Unknown
)

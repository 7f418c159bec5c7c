"""Programmed faults: what goes wrong, on which calls, how often.

A fault is looked at only for calls that passed every check (block, domain, rate, token, body), between the check and
the effect; `Break` at `before_read` alone is looked at before the body is read. Every fault counts the calls its
selector matches; of those that want to fire, the one added first does.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from listener.simulator.gateway.replies import HTML, JSON, Reply, errors, html_page
from listener.simulator.gateway.settings import Count, Port, Seconds

TRUNCATED_JSON = b'{"code":"ok","ticket":{"ticket_id":'
"""A body that is whole for HTTP and cut for JSON."""

_FORBID: ConfigDict = ConfigDict(extra="forbid")
_DEFAULT_MESSAGES: Mapping[int, str] = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    422: "Unprocessable",
    429: "Too Many Attempts.",
    500: "Internal Server Error",
}
_PROXY_STATUSES = frozenset({502, 503, 504})
# the HTTP server writes no control characters
_HeaderText = Annotated[str, Field(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]


class Endpoint(StrEnum):
    """Paths below `/{domain}/api/v1/`."""

    SMS = "sms"
    ZNS = "zalo/zns"
    TICKETS = "tickets"
    TICKET = "tickets/{id}"
    CUSTOM_FIELDS = "tickets/custom_fields"
    SEARCH = "search"
    CONTACT_BY_PHONE = "contactsByPhone"
    CONTACTS = "contacts"
    SERVICES = "services"
    AGENTS = "agents"
    GROUPS = "groups"


class Moment(StrEnum):
    """How far a call comes before its connection breaks."""

    BEFORE_READ = "before_read"
    BEFORE_EFFECT = "before_effect"
    BEFORE_ANSWER = "before_answer"
    """After the effect, before any byte of the answer."""
    HALF_STATUS_LINE = "half_status_line"
    AFTER_STATUS_LINE = "after_status_line"
    AFTER_HEADERS = "after_headers"
    HALF_BODY = "half_body"


class Ending(StrEnum):
    """How a connection breaks."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"
    """It stays open and silent until the client leaves: with `before_effect` a black hole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Another answer than the true one, before or after the effect.

    Without `body`: the error envelope with `message` (429 and 500 as documented, others assumed), HTML for 502-504, an
    empty body for 2xx and 3xx. A programmed 429 does not feed the gateway's own escalation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["answer"] = "answer"
    status: Annotated[int, Field(ge=100, le=999)]
    message: str | None = None
    body: bytes | None = None
    content_type: _HeaderText | None = None
    headers: Mapping[_HeaderText, _HeaderText] = field(default_factory=dict)
    after_effect: bool = False

    def reply(self) -> Reply:
        """The answer in full."""
        if self.body is not None:
            body, content_type = self.body, JSON
        elif self.status < 400:
            body, content_type = b"", HTML
        elif self.status in _PROXY_STATUSES and self.message is None:
            body, content_type = html_page(self.status), HTML
        else:
            body = errors(self.status, self.message or _DEFAULT_MESSAGES.get(self.status, "Error")).body
            content_type = JSON
        return Reply(
            status=self.status, body=body, content_type=self.content_type or content_type, headers=self.headers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """The true answer, late by `seconds`; the effect takes place even if the client has left."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["delay"] = "delay"
    seconds: Seconds
    after_effect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drip:
    """The true answer in small pieces: headers at once, then `chunk` bytes each `interval` seconds.

    `forever` goes on with blanks after the body and never ends it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["drip"] = "drip"
    chunk: Annotated[int, Field(ge=1)] = 1
    interval: Seconds = 0.3
    forever: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The connection breaks at a moment, in one of three ways."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["break"] = "break"
    moment: Moment
    ending: Ending = Ending.CLOSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Bytes that are no HTTP, after the effect, then the end."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["garbage"] = "garbage"
    data: bytes = bytes(range(255, 127, -1)) + b"\r\n\r\n"
    ending: Ending = Ending.CLOSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Huge:
    """200 with a body of `size` blanks after the effect; `gzip` sends it compressed, about 1000 to 1."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["huge"] = "huge"
    size: Count = 2 * 1024**3
    gzip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyHeaders:
    """The true answer under `count` extra headers of `size` bytes each."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    kind: Literal["many_headers"] = "many_headers"
    count: Count = 1000
    size: Count = 8000


Action = Annotated[Answer | Delay | Drip | Break | Garbage | Huge | ManyHeaders, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An action and the calls it strikes; all conditions must hold, None means any.

    Of the matching calls the `nth` (default: the `every`-th) is the first to be struck, from there each `every`-th,
    with `probability`, `times` in all (None: until cleared). A phone is compared as sent.

    Raises ValueError when the conditions contradict each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    action: Action
    endpoint: Endpoint | None = None
    port: Port | None = None
    phone: str | None = None
    content: str | None = None
    """Part of the content."""
    pattern: str | None = None
    """Regular expression searched in the content."""
    reused: bool = False
    """Only calls that are not the first on their connection."""
    nth: int | None = None
    every: int = 1
    probability: float = 1.0
    seed: int = 0
    times: int | None = 1

    def __post_init__(self) -> None:
        if self.every < 1 or (self.nth is not None and self.nth < 1) or (self.times is not None and self.times < 1):
            raise ValueError("nth, every and times count from 1")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability lies between 0 and 1")
        if self.before_read and (self.phone, self.content, self.pattern) != (None, None, None):
            raise ValueError("a break before the body is read cannot depend on phone or content")
        try:
            re.compile(self.pattern or "")
        except re.error as exc:
            raise ValueError(f"pattern is no regular expression: {exc}") from None

    @property
    def before_read(self) -> bool:
        """Whether the fault strikes before the body is known."""
        return isinstance(self.action, Break) and self.action.moment is Moment.BEFORE_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a selector may ask about a call; phone and content are empty before the body is read."""

    endpoint: Endpoint
    port: Port
    reused: bool
    phone: str = ""
    content: str = ""


class _Armed:
    """A fault in the queue with its counts."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._pattern = re.compile(fault.pattern) if fault.pattern is not None else None
        self._rng = random.Random(fault.seed)
        self._first = fault.nth or fault.every
        self._seen = 0
        self.fired = 0

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.fired >= self.fault.times

    def wants(self, subject: Subject) -> bool:
        """Counts the call if it matches, and says whether it is to be struck."""
        if not self._matches(subject):
            return False
        self._seen += 1
        # Drawn for every match, so that the sequence depends on the seed alone.
        drawn = self.fault.probability >= 1 or self._rng.random() < self.fault.probability
        past = self._seen - self._first
        return drawn and past >= 0 and past % self.fault.every == 0

    def _matches(self, subject: Subject) -> bool:
        fault = self.fault
        return (
            fault.endpoint in (None, subject.endpoint)
            and fault.port in (None, subject.port)
            and fault.phone in (None, subject.phone)
            and (fault.content is None or fault.content in subject.content)
            and (self._pattern is None or self._pattern.search(subject.content) is not None)
            and (subject.reused or not fault.reused)
        )


class FaultQueue:
    """The faults that wait for their calls, in the order they were added."""

    def __init__(self) -> None:
        self._early: list[_Armed] = []
        self._late: list[_Armed] = []
        self.fired = 0
        """Faults that struck so far."""

    def add(self, fault: Fault) -> None:
        """Puts a fault at the end of the queue."""
        (self._early if fault.before_read else self._late).append(_Armed(fault))

    def clear(self) -> None:
        """Takes every fault out."""
        self._early.clear()
        self._late.clear()

    def pick_early(self, subject: Subject) -> Break | None:
        """The break that strikes this call before its body is read."""
        action = self._pick(self._early, subject) if self._early else None
        return action if isinstance(action, Break) else None

    def pick(self, subject: Subject) -> Action | None:
        """The action that strikes this call, which is read and valid."""
        return self._pick(self._late, subject) if self._late else None

    def _pick(self, queue: list[_Armed], subject: Subject) -> Action | None:
        wanting = [armed for armed in queue if armed.wants(subject)]
        if not wanting:
            return None
        first = wanting[0]
        first.fired += 1
        self.fired += 1
        if first.spent:
            queue.remove(first)
        return first.fault.action

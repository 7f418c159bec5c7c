"""The bodies the gateway answers with.

Documented: the envelope (`code` is `ok` or `errors`), 429 and its text, the block's 404 and its text. Assumed, because
the public documentation leaves them empty: every other error's status and text. HTML pages stand for a proxy in front
of the API.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from listener.simulator.gateway.settings import GatewaySettings

JSON = "application/json"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole HTTP answer before it meets the wire."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def raw(self) -> bytes:
        """The answer as HTTP/1.1 bytes, for faults that cut it."""
        headers = {"Content-Type": self.content_type, "Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} {reason(self.status)}\r\n{lines}\r\n".encode("latin-1") + self.body


class RefusedError(Exception):
    """The call has no effect; carries the answer that says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def reason(status: int) -> str:
    """The reason phrase of a status, for known and made-up ones."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def dump(document: object) -> bytes:
    """Compact JSON in ASCII, so that a lone surrogate in a text cannot break an answer."""
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def ok(**objects: Any) -> Reply:
    """200 with `code` ok and the named objects."""
    return Reply(status=200, body=dump({"code": "ok", **objects}))


def errors(status: int, message: str, **more: Any) -> Reply:
    """An error in the documented envelope."""
    return Reply(status=status, body=dump({"code": "errors", "message": message, **more}))


def refused(settings: GatewaySettings, message: str, **more: Any) -> RefusedError:
    """A body that is not accepted: 400, or 200 where the settings say so. Status and texts are assumed."""
    return RefusedError(errors(settings.refusal_status, message, **more))


def too_many(settings: GatewaySettings) -> Reply:
    """Documented; the optional header is not."""
    reply = errors(429, "Too Many Attempts.")
    if settings.retry_after is None:
        return reply
    return Reply(status=429, body=reply.body, headers={"Retry-After": str(settings.retry_after)})


def blocked(settings: GatewaySettings) -> Reply:
    """Documented to the byte: the space before the comma and the one at the end are the API's own."""
    return errors(404, f"Domain incorrect too many times , retry after {settings.block_message_minutes} minutes ")


def html_page(status: int) -> bytes:
    """What a proxy in front of the API might say (assumed)."""
    title = f"{status} {reason(status)}"
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()


DOMAIN_INCORRECT = errors(404, "Domain incorrect")
NOT_FOUND = errors(404, "Not found")
METHOD_NOT_ALLOWED = errors(405, "Method not allowed")
UNAUTHORIZED = errors(401, "Unauthorized")

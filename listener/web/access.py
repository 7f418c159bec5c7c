"""Who may look and who may act: tokens, sessions, and what keeps other sites' pages from acting for a person.

Two roles, each with a token of its own (`LISTENER_VIEW_TOKEN`, `LISTENER_ADMIN_TOKEN`). Without any token the page
stays closed. A session is a signed cookie: nothing is kept here, so every replica knows it, and it ends when its token
changes.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from aiohttp import web

SESSION_S = 12 * 3600
_NAME_LENGTH = 40


class Role(StrEnum):
    """`operate` may do all that `view` may."""

    VIEW = "view"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who showed a token; `ends` in epoch seconds, `csrf` is what their forms must carry."""

    role: Role
    name: str
    ends: float
    csrf: str

    @property
    def operates(self) -> bool:
        return self.role is Role.OPERATE

    @property
    def who(self) -> str:
        """As the audit names them."""
        return f"page/{self.name}" if self.name else "page"


# set on every request before its handler runs
SESSION: "web.RequestKey[Session | None]" = web.RequestKey("session", Session)


def operator(request: web.Request) -> Session:
    """Who acts. Raises `HTTPForbidden` for those who may only look."""
    session = request[SESSION]
    if session is None or not session.operates:
        raise web.HTTPForbidden
    return session


class Access:
    """Tokens to roles, roles to cookies and back."""

    def __init__(self, admin_token: str | None, view_token: str | None) -> None:
        given = {Role.OPERATE: admin_token, Role.VIEW: view_token}
        self._tokens = {role: token.encode() for role, token in given.items() if token}

    @property
    def is_set(self) -> bool:
        """Whether there is any token, and so any way in."""
        return bool(self._tokens)

    def role_of(self, token: str) -> Role | None:
        """The role that a token gives; takes as long for a wrong one as for a right one."""
        shown = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        roles = [
            role for role, mine in self._tokens.items() if hmac.compare_digest(shown, hashlib.sha256(mine).digest())
        ]
        return roles[0] if roles else None

    def cookie(self, role: Role, name: str, now: float) -> str:
        """A session that begins `now` (epoch seconds)."""
        said = {"role": role, "name": _plain_name(name), "ends": now + SESSION_S, "id": secrets.token_hex(16)}
        body = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=")
        return f"{body.decode()}.{self._sign(role, 'session', body)}"

    def session(self, cookie: str, now: float) -> Session | None:
        """The session of a cookie; None when it is not ours, not whole, or over."""
        if not cookie.isascii():
            return None
        text, _, signature = cookie.partition(".")
        body = text.encode()
        # Signed with the role's own token, so that whoever has the lesser one cannot make the greater session. What is
        # not signed is not read: it may be anything.
        mine = (role for role in self._tokens if hmac.compare_digest(signature, self._sign(role, "session", body)))
        role = next(mine, None)
        if role is None:
            return None
        said = json.loads(base64.urlsafe_b64decode(body + b"=="))
        if said["role"] != role or said["ends"] <= now:
            return None
        return Session(role=role, name=said["name"], ends=said["ends"], csrf=self._sign(role, "csrf", body))

    @staticmethod
    def same(given: str, expected: str) -> bool:
        """Whether a form carries its session's token, in constant time."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())

    def _sign(self, role: Role, purpose: str, body: bytes) -> str:
        return hmac.new(self._tokens[role], f"listener {purpose} ".encode() + body, hashlib.sha256).hexdigest()


def _plain_name(name: str) -> str:
    return " ".join("".join(c for c in name if c.isprintable()).split())[:_NAME_LENGTH]


def same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Whether a browser says that the request comes from one of our own pages; programs that say nothing may pass, the
    form's own token stops them."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == host


class Throttle:
    """Slows logins: an address has `BURST` tries at once and then one every `EVERY` seconds; all addresses together
    have ten times as much. Addresses that tried long ago are forgotten first."""

    BURST = 8
    EVERY = 5.0
    _KNOWN = 1000

    def __init__(self) -> None:
        # for each address, the time up to which its tries are used up
        self._used: OrderedDict[str, float] = OrderedDict()
        self._all = 0.0

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0 takes one of its tries. `now` is monotonic."""
        mine = max(self._used.pop(address, 0.0), now - self.BURST * self.EVERY)
        every = max(self._all, now - self.BURST * self.EVERY)
        wait = max(mine + self.EVERY - now, every + self.EVERY / 10 - now)
        if wait <= 0:
            mine += self.EVERY
            self._all = every + self.EVERY / 10
        self._used[address] = mine
        while len(self._used) > self._KNOWN:
            self._used.popitem(last=False)
        return max(wait, 0.0)

    def forget(self, address: str) -> None:
        """Somebody there had the right token."""
        self._used.pop(address, None)

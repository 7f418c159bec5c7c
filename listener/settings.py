"""The environment and flags, read once at the border into a frozen `Settings`; all faults at once."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from listener.errors import UsageError
from listener.model import Mode, State

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
DEFAULT_HTTP = "127.0.0.1:8080"
# fields of `Settings` that may come out of a file, each by the variable of its name
SECRETS = ("database_url", "admin_token", "view_token")
# a repeat by a person, a late answer and a cap of a day need what is younger than this
_LEAST_KEPT = 2
# every day is a partition, and who looks at a message locks them all
_MOST_KEPT = 400
_KEPT = frozenset(State) - {State.WAITING, State.SENDING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how long messages are kept, with their attempts and changes; in some states phone and text only for less."""

    # three months
    keep: timedelta = timedelta(days=92)
    sooner: Mapping[State, timedelta] = field(default_factory=dict)


_SPARES = {"https://api.caresoft.vn": "https://api2.caresoft.vn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a command needs to know of its surroundings. `database_url` "" means libpq's own variables."""

    database_url: str = field(default="", repr=False)
    rules: Path = Path("rules.yaml")
    caresoft_url: str = "https://api.caresoft.vn"
    # "" means `DEFAULT_HTTP`, if it is free
    http: str = ""
    admin_token: str | None = field(default=None, repr=False)
    # lets people look at the page who may not act
    view_token: str | None = field(default=None, repr=False)
    mode: Mode = Mode.LIVE
    doorbell: bool = True
    auto_install: bool = False
    log: str = ""
    # seconds from the start of a request to the end of its answer
    http_timeout: float = 30.0
    retention: Retention = field(default_factory=Retention)
    # whether the gateway may stand at a private address
    private_gateway: bool = False
    # of the secrets above, those that came out of files
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)

    def fresh(self, secret: str) -> str | None:
        """One of `SECRETS` as it is now: one out of a file is read anew each time, so that a new one needs no restart.
        While the file cannot be read the last one holds."""
        if path := self.files.get(secret):
            with suppress(OSError, UnicodeDecodeError):
                if value := path.read_text(encoding="utf-8-sig").strip():
                    return value
        known: str | None = getattr(self, secret)
        return known

    @property
    def caresoft_spare(self) -> str | None:
        """CareSoft's own spare host, for when its first one cannot be reached; another gateway has none."""
        return _SPARES.get(self.caresoft_url.rstrip("/"))


def secret_file(environ: Mapping[str, str], name: str) -> Path | None:
    """Where the secret `name` is kept, if that is a file: what its `_FILE` twin names, else the credential of that name
    that systemd hands over (`LoadCredential=`; see systemd.exec(5))."""
    if environ.get(name):
        return None
    if path := environ.get(f"{name}_FILE"):
        return Path(path)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        handed = Path(folder) / name
        return handed if handed.is_file() else None
    return None


def secret(environ: Mapping[str, str], name: str) -> str | None:
    """The value of `name`, else what is in its `secret_file`, else None.

    Raises `UsageError` when the file cannot be read; the text names the variable, never the content.
    """
    path = secret_file(environ, name)
    if path is None:
        # A line end stays at the end of a variable out of a file of Windows; nobody can type it at the page.
        return environ.get(name, "").strip() or None
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        where = f"{name}_FILE" if environ.get(f"{name}_FILE") else f"{name} of the credentials directory"
        raise UsageError(f"{where}: cannot read that file ({type(error).__name__})") from None


def read_settings(environ: Mapping[str, str] = os.environ, **flags: object) -> Settings:
    """Flags that are not None win over the environment, the environment over the defaults.

    Raises `UsageError` that lists everything wrong.
    """
    faults: list[str] = []
    values: dict[str, object] = {}

    def take(into: str, name: str, convert: Callable[[str], object]) -> None:
        if text := environ.get(name, "").strip():
            try:
                values[into] = convert(text)
            except ValueError as error:
                faults.append(f"{name}: {error}")

    files: dict[str, Path] = {}
    for field_name in SECRETS:
        name = f"LISTENER_{field_name.upper()}"
        try:
            if value := secret(environ, name):
                values[field_name] = _connection(value) if field_name == "database_url" else value
                if path := secret_file(environ, name):
                    files[field_name] = path
        except UsageError as error:
            faults.append(str(error))
        except ValueError as error:
            faults.append(f"{name}: {error}")
    values["files"] = files
    take("rules", "LISTENER_RULES", Path)
    take("caresoft_url", "LISTENER_CARESOFT_URL", _gateway)
    take("http", "LISTENER_HTTP", _address)
    take("mode", "LISTENER_MODE", _mode)
    take("doorbell", "LISTENER_DOORBELL", _switch)
    take("auto_install", "LISTENER_AUTO_INSTALL", _switch)
    take("log", "LISTENER_LOG", _log)
    take("http_timeout", "LISTENER_HTTP_TIMEOUT", _seconds)
    take("private_gateway", "LISTENER_CARESOFT_PRIVATE", _switch)
    take("retention", "LISTENER_RETENTION", read_retention)
    values |= {name: value for name, value in flags.items() if value is not None}
    gateway = str(values.get("caresoft_url", ""))
    if gateway and not values.get("private_gateway") and not public_or_local(urlsplit(gateway).hostname or ""):
        faults.append(
            "LISTENER_CARESOFT_URL: that is a private address; if it is meant, set LISTENER_CARESOFT_PRIVATE=1"
        )
    if faults:
        raise UsageError("\n".join(faults))
    return Settings(**values)  # type: ignore[arg-type]


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port` or `[::1]:port` in two; port 0 takes a free one. Raises `ValueError`."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("write it as host:port, such as 127.0.0.1:8080")
    return host, int(port)


def _address(text: str) -> str:
    host_and_port(text)
    return text


def _connection(text: str) -> str:
    """A connection string that libpq can read; what is wrong with another is said without showing any of it."""
    try:
        parts = conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        raise ValueError("that is no connection string; write it as postgresql://user:password@host/database") from None
    ports = str(parts.get("port") or "").replace(",", "")
    # What libpq would say about these shows the piece of a password that it took for a host or a port.
    if "@" in str(parts.get("host") or "") or not (ports.isdigit() or not ports):
        raise ValueError("write special characters of the password as %XX, such as %40 for @ and %2F for /")
    return text


def public_or_local(host: str) -> bool:
    """Whether a host is a name (looked at when it is resolved), an address of the internet, or this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return address.is_loopback or is_public(address)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is an address of the internet: no private, link-local, shared or documentation one."""
    mapped = getattr(address, "ipv4_mapped", None)
    return is_public(mapped) if mapped is not None else address.is_global and not address.is_multicast


# a number that the system would take for an address: decimal, octal or hexadecimal, in less than four pieces or more
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
# a name, or an address of IPv4 or IPv6
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*(%.+)?", re.IGNORECASE | re.ASCII)


def _gateway(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("write it as https://host") from None
    if _NUMBERS.fullmatch(parts.hostname or ""):
        try:
            ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            raise ValueError("write an address as four numbers from 0 to 255, such as 127.0.0.1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as https://host")
    if not _HOST.fullmatch(parts.hostname):
        # Whoever connects writes other digits and dots (１０。0.0.1) as these, after the look at the address here.
        raise ValueError("write the host in a-z, 0-9, - and dots")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("no user, password or query belongs in it; the token comes from the account's `token:`")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("plain http is only for this machine (127.0.0.1); use https")
    return text.rstrip("/")


def _mode(text: str) -> Mode:
    if text not in set(Mode):
        raise ValueError(f"use one of {', '.join(Mode)}")
    return Mode(text)


def _switch(text: str) -> bool:
    words = {"1": True, "on": True, "true": True, "yes": True, "0": False, "off": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError("use on or off")
    return words[text.lower()]


def _log(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("use text or json")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 300:
        raise ValueError("use seconds between 0.1 and 300")
    return value


def read_retention(text: str) -> Retention:
    """`92d`, or `92d, accepted 30d, shadow 7d`. Raises `ValueError`."""
    first, *others = (part.split() for part in text.split(","))
    if len(first) != 1:
        raise ValueError("write it as 92d, or as 92d, accepted 30d")
    keep = _days(first[0])
    sooner: dict[State, timedelta] = {}
    for words in others:
        if len(words) != 2:
            raise ValueError("after the comma write a state and a time, such as accepted 30d")
        if words[0] not in _KEPT:
            raise ValueError(f"there is no state {words[0]!r}; use one of {', '.join(sorted(_KEPT))}")
        sooner[State(words[0])] = _days(words[1])
        if sooner[State(words[0])] > keep:
            raise ValueError(f"{words[0]} cannot be kept for longer than the day that it is in: {first[0]}")
    return Retention(keep=keep, sooner=sooner)


def _days(text: str) -> timedelta:
    number = text.removesuffix("d")
    if text == number or not (number.isascii() and number.isdigit() and _LEAST_KEPT <= int(number) <= _MOST_KEPT):
        raise ValueError(f"write a time from {_LEAST_KEPT}d to {_MOST_KEPT}d, such as 92d")
    return timedelta(days=int(number))

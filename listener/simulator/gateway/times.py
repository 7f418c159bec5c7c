"""The API's two spellings of a time. Which zone it means is not documented: assumed UTC with `Z`, else Vietnam's."""

from datetime import UTC, datetime, timedelta, timezone

_VIETNAM = timezone(timedelta(hours=7))
_LOCAL = "%Y-%m-%d %H:%M:%S"
_ZULU = "%Y-%m-%dT%H:%M:%SZ"


def local_stamp(at: float) -> str:
    """Seconds since the epoch as `2026-11-22 10:00:00` in Vietnam."""
    return datetime.fromtimestamp(at, _VIETNAM).strftime(_LOCAL)


def utc_stamp(at: float) -> str:
    """Seconds since the epoch as `2026-11-22T03:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime(_ZULU)


def parse_stamp(text: str) -> float:
    """Either spelling as seconds since the epoch. Raises ValueError."""
    if text.endswith("Z"):
        return datetime.strptime(text, _ZULU).replace(tzinfo=UTC).timestamp()
    return datetime.strptime(text, _LOCAL).replace(tzinfo=_VIETNAM).timestamp()

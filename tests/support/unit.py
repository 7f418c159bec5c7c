"""`deploy/listener.service`, read."""

import re
from collections import defaultdict
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy" / "listener.service"


def settings() -> dict[str, list[str]]:
    """Each name of the unit's sections with its values, in order."""
    found = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found[match[1]].append(match[2])
    return dict(found)


def environment(credentials: Path) -> dict[str, str]:
    """What `Environment=` gives the daemon, with its credentials in that folder."""
    pairs = (value.split("=", 1) for value in settings()["Environment"])
    return {name: value.replace("%d", str(credentials)) for name, value in pairs}


def seconds(name: str) -> float:
    """A time span of the unit, such as `40` or `3min`, in seconds."""
    (value,) = settings()[name]
    match = re.fullmatch(r"(\d+)(s|min|)", value)
    assert match is not None, value
    return int(match[1]) * (60.0 if match[2] == "min" else 1.0)

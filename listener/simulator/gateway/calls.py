"""A call that passed the gate, and the plan a planner makes of it: all checks first, then one effect.

Planners change nothing and raise `RefusedError`; the plan's effect is what faults come before or after.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from listener.simulator.gateway.replies import Reply, refused
from listener.simulator.gateway.settings import GatewaySettings
from listener.simulator.gateway.state import Request, State

# National or +84/84 form, nine or ten digits after the trunk prefix. The real API's rule is not documented.
_PHONE = re.compile(r"(?:0|\+?84)[1-9][0-9]{8,9}")
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, read whole."""

    request: Request
    query: Mapping[str, str]
    body: bytes
    ticket_id: int | None
    """The number in `tickets/{id}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the call will do. `phone` and `content` are for the selectors of faults."""

    effect: Callable[[], Reply]
    phone: str = ""
    content: str = ""


Planner = Callable[[State, Call], Plan]


def wrapped(settings: GatewaySettings, call: Call, key: str) -> dict[str, Any]:
    """The object under `key` of the JSON body. Raises RefusedError."""
    fields = document(settings, call).get(key)
    if not isinstance(fields, dict):
        raise refused(settings, f"{key} is required")
    return fields


def document(settings: GatewaySettings, call: Call) -> dict[str, Any]:
    """The JSON body, which must be an object. Raises RefusedError."""
    try:
        found = json.loads(call.body.decode())
    except (ValueError, RecursionError):
        raise refused(settings, "Body is not JSON") from None
    if not isinstance(found, dict):
        raise refused(settings, "Body is not a JSON object")
    return found


def whole_number(value: object) -> int | None:
    """An int or a string of ASCII digits as an int; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return None


def is_phone(value: object) -> bool:
    """Whether the value is a string that looks like a Vietnamese number."""
    return isinstance(value, str) and _PHONE.fullmatch(value) is not None

"""The simulator's own API below `/_control/` on the primary port, outside limit, token and faults.

    GET    /_control/ledger    -> {"ledger": [LedgerEntry]}
    GET    /_control/requests  -> {"requests": [Request]}           tokens masked, oldest first
    GET    /_control/counters  -> Counters
    GET    /_control/settings  -> the settings but token, secret and clock
    POST   /_control/reset     -> {}      empties everything but the settings, and opens both ports
    POST   /_control/faults    Fault -> {}
    DELETE /_control/faults    -> {}
    POST   /_control/settings  {name: value, ...} of GatewaySettings but clock -> {}   all or none
    POST   /_control/block     {"seconds": 5} -> {}                 without seconds: block_seconds; 0 lifts a block
    POST   /_control/clock     {"advance": 900} -> {"now": 1795316400.0}
    POST   /_control/port      {"port": "backup", "refuse": true, "seconds": 2} -> {}
                               refuse false opens; without seconds it stays refused; the primary one needs seconds

Field names are those of the dataclasses in `state`, `faults` and `settings`; a Fault's `action` is told by its `kind`:
`{"action": {"kind": "break", "moment": "half_body", "ending": "reset"}, "phone": "0980000000", "times": null}`.
Bytes are UTF-8 text, times are seconds. A body that does not fit: 400 `{"error": "..."}`; another path: 404.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aiohttp import web
from pydantic import ConfigDict, TypeAdapter, ValidationError

from listener.simulator.gateway.door import Door
from listener.simulator.gateway.faults import Fault
from listener.simulator.gateway.replies import dump
from listener.simulator.gateway.settings import GatewaySettings, Port, Seconds
from listener.simulator.gateway.state import Counters, LedgerEntry, Request, State

PREFIX = "/_control/"
_SECRETS: Any = {"token": True, "clock": True, "webhook": {"secret": True}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seconds: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Advance:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    advance: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _PortChange:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    port: Port
    refuse: bool
    seconds: Seconds | None = None


_LEDGER = TypeAdapter(list[LedgerEntry])
_REQUESTS = TypeAdapter(list[Request])
_COUNTERS = TypeAdapter(Counters)
_SETTINGS = TypeAdapter(GatewaySettings)
_CHANGES = TypeAdapter(dict[str, Any])
_FAULT = TypeAdapter(Fault)
_BLOCK = TypeAdapter(_Block)
_ADVANCE = TypeAdapter(_Advance)
_PORT_CHANGE = TypeAdapter(_PortChange)


async def answer(state: State, doors: Mapping[Port, Door], request: web.BaseRequest) -> web.Response:
    """Does what a control request asks."""
    body = await request.read()
    try:
        return await _do(state, doors, f"{request.method} {request.path.removeprefix(PREFIX)}", body)
    except ValidationError as exc:
        # Without the input, which may hold a token.
        return web.json_response({"error": "; ".join(_words(error) for error in exc.errors())}, status=400)
    except ValueError as exc:
        return web.json_response({"error": str(exc)}, status=400)


async def _do(state: State, doors: Mapping[Port, Door], wanted: str, body: bytes) -> web.Response:
    match wanted:
        case "GET ledger":
            return _json({"ledger": _LEDGER.dump_python(state.ledger, mode="json")})
        case "GET requests":
            return _json({"requests": _REQUESTS.dump_python(list(state.requests), mode="json")})
        case "GET counters":
            return _json(_COUNTERS.dump_python(state.counters(), mode="json"))
        case "GET settings":
            return _json(_SETTINGS.dump_python(state.settings, mode="json", exclude=_SECRETS))
        case "POST reset":
            state.reset()
            for door in doors.values():
                await door.open()
        case "POST faults":
            state.faults.add(_FAULT.validate_json(body))
        case "DELETE faults":
            state.faults.clear()
        case "POST settings":
            state.settings = changed(state.settings, _CHANGES.validate_json(body))
        case "POST block":
            seconds = _BLOCK.validate_json(body or b"{}").seconds
            state.limiter.block(state.now(), state.settings.block_seconds if seconds is None else seconds)
        case "POST clock":
            state.advance(_ADVANCE.validate_json(body).advance)
            return web.json_response({"now": state.now()})
        case "POST port":
            await _change_port(doors, _PORT_CHANGE.validate_json(body))
        case _:
            return web.json_response({"error": f"no such control call: {wanted}"}, status=404)
    return web.json_response({})


def changed(settings: GatewaySettings, changes: Mapping[str, Any]) -> GatewaySettings:
    """The settings with these values in place, all checked. Raises ValueError for a bad name or value."""
    if "clock" in changes:
        raise ValueError("clock cannot be set, only advanced")
    now = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return _SETTINGS.validate_python({**now, **changes})


async def _change_port(doors: Mapping[Port, Door], change: _PortChange) -> None:
    door = doors[change.port]
    if not change.refuse:
        await door.open()
    elif change.port is Port.PRIMARY and change.seconds is None:
        raise ValueError("the primary port carries this API: say for how many seconds it refuses")
    else:
        door.refuse(change.seconds)


def _json(document: object) -> web.Response:
    return web.Response(body=dump(document), content_type="application/json")


def _words(error: Mapping[str, Any]) -> str:
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"

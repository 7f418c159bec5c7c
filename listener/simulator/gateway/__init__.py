"""The CareSoft API on loopback: real HTTP, made-up data, faults on demand.

Written from what is known of the outside API, never from our own client, so that the two check each other. Where the
public documentation is silent the behaviour is our assumption; each module says so in its docstring.

    async with Gateway(GatewaySettings(per_second=None)) as gateway:
        gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), nth=3))
        ...
        await gateway.wait_for(5)
        assert gateway.state.counters().duplicates == []
"""

from listener.simulator.gateway.faults import (
    TRUNCATED_JSON,
    Action,
    Answer,
    Break,
    Delay,
    Drip,
    Ending,
    Endpoint,
    Fault,
    Garbage,
    Huge,
    ManyHeaders,
    Moment,
)
from listener.simulator.gateway.limits import Verdict
from listener.simulator.gateway.server import Gateway, serve
from listener.simulator.gateway.settings import (
    BlockMode,
    ClosedTicket,
    GatewaySettings,
    Port,
    UnknownTicket,
    WebhookSettings,
)
from listener.simulator.gateway.state import Channel, Counters, Duplicate, LedgerEntry, Request, Ticket
from listener.simulator.gateway.webhook import signature

__all__ = [
    "TRUNCATED_JSON",
    "Action",
    "Answer",
    "BlockMode",
    "Break",
    "Channel",
    "ClosedTicket",
    "Counters",
    "Delay",
    "Drip",
    "Duplicate",
    "Ending",
    "Endpoint",
    "Fault",
    "Garbage",
    "Gateway",
    "GatewaySettings",
    "Huge",
    "LedgerEntry",
    "ManyHeaders",
    "Moment",
    "Port",
    "Request",
    "Ticket",
    "UnknownTicket",
    "Verdict",
    "WebhookSettings",
    "serve",
    "signature",
]

"""`POST sms` and `POST zalo/zns`: the two calls that send something.

Documented: the bodies and the answer's four ints for SMS; for ZNS the body. Assumed: every refusal, the ZNS answer, the
phone forms, and that the text becomes a comment of the ticket.
"""

import json
from collections.abc import Mapping
from typing import Any

from listener.simulator.gateway.calls import Call, Plan, is_phone, whole_number, wrapped
from listener.simulator.gateway.replies import Reply, ok, refused
from listener.simulator.gateway.settings import SMS, ClosedTicket, GatewaySettings, UnknownTicket
from listener.simulator.gateway.state import AGENT_ID, Channel, LedgerEntry, State


def plan_sms(state: State, call: Call) -> Plan:
    """Checks an SMS. Raises RefusedError."""
    settings = state.settings
    fields = wrapped(settings, call, "sms")
    service_id = whole_number(fields.get("service_id"))
    if service_id is None or settings.services.get(service_id) != SMS:
        raise refused(settings, "service_id is invalid")
    content = fields.get("content")
    if not isinstance(content, str) or not content.strip():
        raise refused(settings, "content is required")
    if len(content) > settings.sms_max:
        raise refused(settings, f"content is longer than {settings.sms_max} characters")
    phone = _phone(settings, fields)
    ticket_id = _ticket_id(state, fields)

    def effect() -> Reply:
        entry = state.accept(
            call.request,
            channel=Channel.SMS,
            phone=phone,
            content=content,
            body=call.body.decode(),
            ticket_id_sent=ticket_id,
            service_id=service_id,
        )
        return _accepted(state, entry)

    return Plan(effect=effect, phone=phone, content=content)


def plan_zns(state: State, call: Call) -> Plan:
    """Checks a ZNS message. Raises RefusedError."""
    settings = state.settings
    fields = wrapped(settings, call, "zns")
    template_id = whole_number(fields.get("template_id"))
    if template_id is None or template_id not in settings.zns_templates:
        raise refused(settings, "template_id is invalid")
    params = fields.get("params", {})
    if not isinstance(params, dict):
        raise refused(settings, "params is not an object")
    phone = _phone(settings, fields)
    ticket_id = _ticket_id(state, fields)
    content = json.dumps(params, ensure_ascii=False, sort_keys=True)

    def effect() -> Reply:
        entry = state.accept(
            call.request,
            channel=Channel.ZNS,
            phone=phone,
            content=content,
            body=call.body.decode(),
            ticket_id_sent=ticket_id,
            template_id=template_id,
        )
        return _accepted(state, entry)

    return Plan(effect=effect, phone=phone, content=content)


def _phone(settings: GatewaySettings, fields: Mapping[str, Any]) -> str:
    phone = fields.get("phone")
    if not is_phone(phone):
        raise refused(settings, "phone is invalid")
    return str(phone)


def _ticket_id(state: State, fields: Mapping[str, Any]) -> int | None:
    """The ticket asked for, None when none is; unknown ones pass only where the settings make a new ticket of them."""
    sent = fields.get("ticket_id")
    if sent is None or sent == "":
        return None
    ticket_id = whole_number(sent)
    if ticket_id is None:
        raise refused(state.settings, "ticket_id is invalid")
    if ticket_id == 0:
        return None
    ticket = state.tickets.get(ticket_id)
    if ticket is None and state.settings.unknown_ticket is UnknownTicket.REFUSE:
        raise refused(state.settings, "Ticket not found")
    if ticket is not None and ticket.status == "closed" and state.settings.closed_ticket is ClosedTicket.REFUSE:
        raise refused(state.settings, "Ticket is closed")
    return ticket_id


def _accepted(state: State, entry: LedgerEntry) -> Reply:
    ticket = state.tickets[entry.ticket_id]
    return ok(
        ticket={
            "ticket_id": ticket.ticket_id,
            "ticket_no": ticket.ticket_no,
            "requester_id": ticket.requester_id,
            "assignee_id": AGENT_ID,
        }
    )

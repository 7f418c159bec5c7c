"""The routes below `/{domain}/api/v1/`. Unknown paths and methods are answered 404 and 405 (assumed)."""

import re
from collections.abc import Mapping

from listener.simulator.gateway import directory, messages, tickets
from listener.simulator.gateway.calls import Planner
from listener.simulator.gateway.faults import Endpoint
from listener.simulator.gateway.replies import METHOD_NOT_ALLOWED, NOT_FOUND, RefusedError

PREFIX = "api/v1/"

_PLANNERS: Mapping[Endpoint, Mapping[str, Planner]] = {
    Endpoint.SMS: {"POST": messages.plan_sms},
    Endpoint.ZNS: {"POST": messages.plan_zns},
    Endpoint.TICKETS: {"GET": tickets.plan_list, "POST": tickets.plan_create},
    Endpoint.TICKET: {"GET": tickets.plan_read, "PUT": tickets.plan_update},
    Endpoint.CUSTOM_FIELDS: {"GET": tickets.plan_custom_fields},
    Endpoint.SEARCH: {"POST": tickets.plan_search},
    Endpoint.CONTACT_BY_PHONE: {"GET": directory.plan_contact_by_phone},
    Endpoint.CONTACTS: {"POST": directory.plan_new_contact},
    Endpoint.SERVICES: {"GET": directory.plan_services},
    Endpoint.AGENTS: {"GET": directory.plan_agents},
    Endpoint.GROUPS: {"GET": directory.plan_groups},
}
_FIXED: Mapping[str, Endpoint] = {endpoint.value: endpoint for endpoint in Endpoint if endpoint is not Endpoint.TICKET}
_TICKET = re.compile(r"tickets/([0-9]{1,18})")


Route = tuple[Endpoint, Planner, int | None]
"""Endpoint, planner, and the number in `tickets/{id}`."""


def route(method: str, path: str) -> Route:
    """The route of a path below the domain, with or without a slash at its end. Raises RefusedError."""
    tail = path.removeprefix(PREFIX).removesuffix("/") if path.startswith(PREFIX) else ""
    ticket_id = None
    endpoint = _FIXED.get(tail)
    if endpoint is None and (match := _TICKET.fullmatch(tail)):
        endpoint, ticket_id = Endpoint.TICKET, int(match[1])
    if endpoint is None:
        raise RefusedError(NOT_FOUND)
    planner = _PLANNERS[endpoint].get(method)
    if planner is None:
        raise RefusedError(METHOD_NOT_ALLOWED)
    return endpoint, planner, ticket_id

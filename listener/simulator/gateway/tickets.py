"""Listing, reading, searching and writing tickets.

Documented: page, count and numFound, the ticket's fields, the misspelled `custom_filed` and `lable`, the search body.
Seen in client code: the list's parameters, `comments`, `POST` and `PUT` bodies. Assumed: the search's answer, that
`since` and `to` include their ends while `greater` and `lesser` do not, `ticket_status` in a `PUT`, all refusals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from listener.simulator.gateway.calls import Call, Plan, document, is_phone, whole_number, wrapped
from listener.simulator.gateway.directory import contact_body
from listener.simulator.gateway.replies import RefusedError, errors, ok, refused
from listener.simulator.gateway.settings import GatewaySettings
from listener.simulator.gateway.state import AGENT_ID, Comment, State, Ticket
from listener.simulator.gateway.times import parse_stamp, utc_stamp

CUSTOM_FIELDS: Sequence[Mapping[str, Any]] = (
    {"custom_field_id": 71, "custom_field_lable": "Mã đơn hàng", "type": "text", "values": []},
    {"custom_field_id": 72, "custom_field_lable": "Giá trị", "type": "numeric", "values": []},
    {
        "custom_field_id": 73,
        "custom_field_lable": "Kênh bán",
        "type": "single drop-down",
        "values": [{"id": 1, "lable": "Cửa hàng"}, {"id": 2, "lable": "Trực tuyến"}],
    },
)
_LABELS = {field["custom_field_id"]: field["custom_field_lable"] for field in CUSTOM_FIELDS}
_STATUSES = frozenset({"new", "open", "pending", "solved", "closed"})
_ORDERS: Mapping[str, Sequence[int]] = {
    "field_value": (0,),
    "field_value_since": (0, 1),
    "field_value_to": (-1, 0),
    "field_value_greater": (1,),
    "field_value_lesser": (-1,),
}
"""Condition to the results of `_order(stored, asked)` that meet it."""
_PAGE_SIZE = 50
_PAGE_LIMIT = 500


def plan_list(state: State, call: Call) -> Plan:
    """`GET tickets`: time windows, `order_by` created_at or updated_at, `order_type` asc or desc, pages."""
    settings, query = state.settings, call.query
    bounds = {
        name: _time(settings, query[name])
        for name in ("created_since", "created_to", "updated_since", "updated_to")
        if name in query
    }
    found = [
        ticket
        for ticket in state.tickets.values()
        if bounds.get("created_since", ticket.created_at) <= ticket.created_at <= bounds.get("created_to", float("inf"))
        and bounds.get("updated_since", ticket.updated_at)
        <= ticket.updated_at
        <= bounds.get("updated_to", float("inf"))
    ]
    by_update = query.get("order_by") == "updated_at"
    found.sort(
        key=lambda ticket: ticket.updated_at if by_update else ticket.created_at,
        reverse=query.get("order_type", "asc").lower() == "desc",
    )
    return _page(settings, found, query)


def plan_read(state: State, call: Call) -> Plan:
    """`GET tickets/{id}`."""
    ticket = _known(state, call)
    requester = state.contacts.get(ticket.requester_id)
    body = {
        **_body(ticket),
        "custom_filed": _custom_fields(ticket),
        "comments": [_comment_body(comment) for comment in ticket.comments],
        "requester": contact_body(requester) if requester else None,
        "assignee": {"id": AGENT_ID, "username": "Agent"},
        "tags": [],
        "ccs": [],
        "follows": [],
        "duedate": None,
        "sla": None,
    }
    return Plan(effect=lambda: ok(ticket=body))


def plan_create(state: State, call: Call) -> Plan:
    """`POST tickets`: for a known requester_id, or a phone whose contact is found or made."""
    settings = state.settings
    fields = wrapped(settings, call, "ticket")
    custom_fields = _given_fields(settings, fields)
    requester_id = whole_number(fields.get("requester_id"))
    phone = fields.get("phone")
    if requester_id is not None and requester_id not in state.contacts:
        raise refused(settings, "requester_id is invalid")
    if requester_id is None and not is_phone(phone):
        raise refused(settings, "requester_id or phone is required")
    subject = str(fields.get("ticket_subject") or "")
    if not subject or len(subject) > 255:
        raise refused(settings, "ticket_subject is required, at most 255 characters")

    def effect() -> Any:
        owner = requester_id
        if owner is None:
            contact = state.contact_with(str(phone))
            owner = (contact or state.add_contact(str(phone), username=str(fields.get("username") or ""))).id
        ticket = state.add_ticket(subject=subject, requester_id=owner, source="API")
        ticket.custom_fields.update(custom_fields)
        ticket.priority = str(fields.get("ticket_priority") or ticket.priority)
        if fields.get("ticket_comment"):
            state.comment(ticket, str(fields["ticket_comment"]), "api")
        return ok(ticket=_body(ticket))

    return Plan(effect=effect, phone=str(phone or ""), content=subject)


def plan_update(state: State, call: Call) -> Plan:
    """`PUT tickets/{id}`: custom fields, requester, a comment, the status."""
    settings = state.settings
    ticket = _known(state, call)
    fields = wrapped(settings, call, "ticket")
    custom_fields = _given_fields(settings, fields)
    requester_id = whole_number(fields.get("requester_id", ticket.requester_id))
    if requester_id not in state.contacts:
        raise refused(settings, "requester_id is invalid")
    status = fields.get("ticket_status", ticket.status)
    if not isinstance(status, str) or status not in _STATUSES:
        raise refused(settings, "ticket_status is invalid")
    comment = fields.get("ticket_comment") or {}
    if not isinstance(comment, dict):
        raise refused(settings, "ticket_comment is not an object")
    text = str(comment.get("body") or "")

    def effect() -> Any:
        ticket.custom_fields.update(custom_fields)
        ticket.requester_id = requester_id
        ticket.status = status
        ticket.updated_at = state.now()
        if text:
            state.comment(ticket, text, "api", is_public=whole_number(comment.get("is_public")) != 0)
        return ok(ticket=_body(ticket))

    return Plan(effect=effect, content=text)


def plan_custom_fields(_state: State, _call: Call) -> Plan:
    """`GET tickets/custom_fields`."""
    return Plan(effect=lambda: ok(custom_fields=list(CUSTOM_FIELDS)))


def plan_search(state: State, call: Call) -> Plan:
    """`POST search` for tickets; the other types are refused, since their answers are not known."""
    settings = state.settings
    body = document(settings, call)
    if body.get("type", "TICKET") != "TICKET":
        raise refused(settings, "type is not supported")
    params = body.get("params", {})
    if not isinstance(params, dict):
        raise refused(settings, "params is not an object")
    tests = list(_search_tests(settings, params))
    found = [ticket for ticket in state.tickets.values() if all(test(ticket) for test in tests)]
    return _page(settings, found, body)


def _search_tests(settings: GatewaySettings, params: Mapping[str, Any]) -> Iterable[Callable[[Ticket], bool]]:
    q = str(params.get("q") or "").strip()
    if q.isascii() and q.isdigit():
        yield lambda ticket: str(ticket.ticket_no) == q.lstrip("0")
    elif q:
        yield _subject_test(q)
    if params.get("ticket_subject"):
        yield _subject_test(str(params["ticket_subject"]))
    conditions = params.get("custom_fields", [])
    if not isinstance(conditions, list):
        raise refused(settings, "custom_fields is not a list")
    for condition in conditions:
        field_id = whole_number(condition.get("field_id")) if isinstance(condition, dict) else None
        if field_id is None or field_id not in _LABELS:
            raise refused(settings, "field_id is invalid")
        yield _field_test(field_id, condition)


def _subject_test(text: str) -> Callable[[Ticket], bool]:
    words = text.casefold().split()
    return lambda ticket: all(word in ticket.subject.casefold() for word in words)


def _field_test(field_id: int, condition: Mapping[str, Any]) -> Callable[[Ticket], bool]:
    def test(ticket: Ticket) -> bool:
        value = ticket.custom_fields.get(field_id)
        if value is None:
            return False
        return all(_order(value, str(condition[key])) in orders for key, orders in _ORDERS.items() if key in condition)

    return test


def _order(left: str, right: str) -> int:
    """-1, 0 or 1: as numbers when both are, else as text, which also orders the API's `YYYY/MM/DD` dates."""
    try:
        a, b = Decimal(left), Decimal(right)
        return (a > b) - (a < b)
    except InvalidOperation:
        return (left > right) - (left < right)


def _page(settings: GatewaySettings, found: Sequence[Ticket], query: Mapping[str, Any]) -> Plan:
    page = whole_number(query.get("page", 1))
    count = whole_number(query.get("count", _PAGE_SIZE))
    if page is None or count is None or page < 1 or count < 1:
        raise refused(settings, "page and count are whole numbers from 1")
    size = min(count, _PAGE_LIMIT)
    listed = [
        {**_body(ticket), "custom_fields": _custom_fields(ticket)} for ticket in found[(page - 1) * size : page * size]
    ]
    return Plan(effect=lambda: ok(numFound=len(found), tickets=listed))


def _known(state: State, call: Call) -> Ticket:
    ticket = state.tickets.get(call.ticket_id) if call.ticket_id is not None else None
    if ticket is None:
        raise RefusedError(errors(state.settings.ticket_miss_status, "Ticket not found"))
    return ticket


def _time(settings: GatewaySettings, text: str) -> float:
    try:
        return parse_stamp(text)
    except ValueError:
        raise refused(settings, "Time is not YYYY-MM-DDTHH:MM:SSZ") from None


def _given_fields(settings: GatewaySettings, fields: Mapping[str, Any]) -> dict[int, str]:
    """`custom_fields` of a body as id to value. Raises RefusedError."""
    given = fields.get("custom_fields", [])
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise refused(settings, "custom_fields is not a list of objects")
    values = {}
    for item in given:
        field_id = whole_number(item.get("id"))
        if field_id is None or field_id not in _LABELS:
            raise refused(settings, "custom field is unknown")
        values[field_id] = str(item.get("value", ""))
    return values


def _custom_fields(ticket: Ticket) -> list[dict[str, Any]]:
    return [
        {"id": field_id, "lable": _LABELS[field_id], "value": value} for field_id, value in ticket.custom_fields.items()
    ]


def _comment_body(comment: Comment) -> dict[str, Any]:
    return {
        "id": comment.id,
        "comment": comment.text,
        "commentator_id": AGENT_ID,
        "commentator_name": "Agent",
        "comment_source": comment.source,
        "created_at": utc_stamp(comment.created_at),
        "is_public": int(comment.is_public),
    }


def _body(ticket: Ticket) -> dict[str, Any]:
    return {
        "ticket_id": ticket.ticket_id,
        "ticket_no": ticket.ticket_no,
        "ticket_subject": ticket.subject,
        "ticket_status": ticket.status,
        "ticket_priority": ticket.priority,
        "ticket_source": ticket.source,
        "requester_id": ticket.requester_id,
        "assignee_id": AGENT_ID,
        "service_id": ticket.service_id,
        "created_at": utc_stamp(ticket.created_at),
        "updated_at": utc_stamp(ticket.updated_at),
    }

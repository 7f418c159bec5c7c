"""Contacts, services, agents and groups.

Documented: groups, agents' existence, the contact body's wrapper. Seen in client code: contactsByPhone, the duplicate
answer, services. Assumed: all else, among it that an e-mail is unique like a phone, and the SMS services' type number.
"""

from typing import Any

from listener.simulator.gateway.calls import Call, Plan, is_phone, wrapped
from listener.simulator.gateway.replies import RefusedError, errors, ok, refused
from listener.simulator.gateway.settings import SERVICE_TYPES, SMS
from listener.simulator.gateway.state import AGENT_ID, Contact, State
from listener.simulator.gateway.times import local_stamp

_PHONE_KEYS = ("phone_no", "phone_no2", "phone_no3")
_GROUP_ID = 80_001


def plan_contact_by_phone(state: State, call: Call) -> Plan:
    """`GET contactsByPhone?phoneNo=`: searches all three phones."""
    phone = call.query.get("phoneNo", "")
    contact = state.contact_with(phone)
    if contact is None:
        raise RefusedError(errors(state.settings.contact_miss_status, "Not found user"))
    return Plan(effect=lambda: ok(contact=contact_body(contact)), phone=phone)


def plan_new_contact(state: State, call: Call) -> Plan:
    """`POST contacts`."""
    settings = state.settings
    fields = wrapped(settings, call, "contact")
    phones = [fields[key] for key in _PHONE_KEYS if fields.get(key)]
    email = fields.get("email") or None
    if not phones and not email:
        raise refused(settings, "phone_no or email is required")
    if not all(map(is_phone, phones)):
        raise refused(settings, "phone_no is invalid")
    for phone in phones:
        if known := state.contact_with(phone):
            raise refused(settings, "phone_no already exist", extra_data={"duplicate_id": known.id})
    if email is not None and (known := next((c for c in state.contacts.values() if c.email == email), None)):
        raise refused(settings, "email already exist", extra_data={"duplicate_id": known.id})
    username = str(fields.get("username") or "")
    return Plan(
        effect=lambda: ok(contact=contact_body(state.add_contact(*phones, username=username, email=email))),
        phone=phones[0] if phones else "",
    )


def contact_body(contact: Contact) -> dict[str, Any]:
    """A contact as the API shows it."""
    phones = [*contact.phones, None, None, None]
    return {
        "id": contact.id,
        "username": contact.username,
        "email": contact.email,
        **dict(zip(_PHONE_KEYS, phones, strict=False)),
        "created_at": local_stamp(contact.created_at),
    }


def plan_services(state: State, call: Call) -> Plan:
    """`GET services[?type=n]`."""
    wanted = call.query.get("type")
    listed = [
        {"service_id": service_id, "service_name": f"{name} {service_id}", "service_type": SERVICE_TYPES.get(name, 0)}
        for service_id, name in state.settings.services.items()
        if (name != SMS or state.settings.list_sms_services) and wanted in (None, str(SERVICE_TYPES.get(name, 0)))
    ]
    return Plan(effect=lambda: ok(services=listed))


def plan_agents(state: State, _call: Call) -> Plan:
    """`GET agents`: the one agent there is."""
    agent = {
        "id": AGENT_ID,
        "username": "Agent",
        "email": "agent@example.com",
        "group_id": _GROUP_ID,
        "created_at": local_stamp(state.now()),
    }
    return Plan(effect=lambda: ok(numFound=1, agents=[agent]))


def plan_groups(state: State, _call: Call) -> Plan:
    """`GET groups`: the one group there is."""
    group = {"group_id": _GROUP_ID, "group_name": "Support", "created_at": local_stamp(state.now())}
    return Plan(effect=lambda: ok(groups=[group]))

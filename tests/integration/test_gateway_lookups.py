"""Contacts, tickets, search, services: the calls that find things."""

from typing import Any

import pytest

from tests.integration.gateway_client import PHONE, Api, running


async def new_ticket(api: Api, subject: str = "Đơn hàng", **fields: Any) -> int:
    body = {"ticket": {"ticket_subject": subject, "phone": PHONE, **fields}}
    got = await api.call("POST", "tickets", body)
    assert got.status == 200
    return int(got.json["ticket"]["ticket_id"])


async def found(api: Api, **params: Any) -> list[int]:
    got = await api.call("POST", "search", {"type": "TICKET", "params": params})
    assert got.status == 200
    assert got.json["numFound"] == len(got.json["tickets"])
    return [ticket["ticket_id"] for ticket in got.json["tickets"]]


async def test_a_contact_is_found_by_phone_in_any_form() -> None:
    async with running() as api:
        requester = (await api.sms()).json["ticket"]["requester_id"]
        for phone in (PHONE, "%2B84980000000", "+84980000000", "84980000000"):
            got = await api.call("GET", f"contactsByPhone?phoneNo={phone}")
            assert (got.status, got.json["code"]) == (200, "ok")
            assert (got.json["contact"]["id"], got.json["contact"]["phone_no"]) == (requester, PHONE)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_contact_that_is_not_there(status: int) -> None:
    async with running(contact_miss_status=status) as api:
        got = await api.call("GET", "contactsByPhone?phoneNo=0900000000")
        assert (got.status, got.body) == (status, b'{"code":"errors","message":"Not found user"}')


async def test_a_contact_is_made_once_and_found_by_each_of_its_phones() -> None:
    async with running() as api:
        body = {"username": "Ướt", "phone_no": PHONE, "phone_no2": "0911111111", "email": "a@example.com"}
        made = (await api.call("POST", "contacts/", {"contact": body})).json["contact"]
        assert (made["username"], made["phone_no2"], made["phone_no3"]) == ("Ướt", "0911111111", None)
        assert (await api.call("GET", "contactsByPhone?phoneNo=0911111111")).json["contact"] == made
        for again, message in (
            ({"phone_no": "+84911111111"}, "phone_no already exist"),
            ({"email": "a@example.com"}, "email already exist"),
        ):
            got = await api.call("POST", "contacts", {"contact": again})
            assert (got.status, got.json) == (
                400,
                {"code": "errors", "message": message, "extra_data": {"duplicate_id": made["id"]}},
            )
        assert len(api.gateway.state.contacts) == 1


@pytest.mark.parametrize("body", [{}, {"contact": {}}, {"contact": {"phone_no": "12"}}, {"contact": {"phone_no": 12}}])
async def test_a_contact_needs_a_phone_or_an_email(body: dict[str, Any]) -> None:
    async with running() as api:
        assert (await api.call("POST", "contacts", body)).status == 400
        assert api.gateway.state.contacts == {}


async def test_a_ticket_is_read_with_its_comments_and_the_apis_own_spelling() -> None:
    async with running() as api:
        first = (await api.sms("Đơn A1 đang giao")).json["ticket"]
        path = f"tickets/{first['ticket_id']}"
        update = {"custom_fields": [{"id": 71, "value": "A1"}], "ticket_comment": {"body": "gọi lại", "is_public": 0}}
        assert (await api.call("PUT", path, {"ticket": update})).status == 200
        got = (await api.call("GET", path)).json["ticket"]
        assert got["custom_filed"] == [{"id": 71, "lable": "Mã đơn hàng", "value": "A1"}]
        assert "custom_fields" not in got
        assert [(c["comment"], c["is_public"]) for c in got["comments"]] == [("Đơn A1 đang giao", 1), ("gọi lại", 0)]
        assert got["comments"][0]["created_at"] == "2026-11-22T03:00:00Z"
        assert got["requester"]["id"] == first["requester_id"]
        assert {key: got[key] for key in first} == first


@pytest.mark.parametrize("status", [404, 500])
async def test_a_ticket_that_is_not_there(status: int) -> None:
    async with running(ticket_miss_status=status) as api:
        for method, body in (("GET", None), ("PUT", {"ticket": {}})):
            got = await api.call(method, "tickets/77", body)
            assert (got.status, got.json["code"]) == (status, "errors")


@pytest.mark.parametrize(
    "fields",
    [
        {"ticket_status": "lost"},
        {"ticket_status": ["closed"]},
        {"requester_id": 1},
        {"custom_fields": [{"id": 1, "value": "x"}]},
        {"custom_fields": "x"},
        {"ticket_comment": "x"},
    ],
)
async def test_a_bad_update_changes_nothing(fields: dict[str, Any]) -> None:
    async with running() as api:
        ticket_id = await new_ticket(api)
        before = (await api.call("GET", f"tickets/{ticket_id}")).body
        assert (await api.call("PUT", f"tickets/{ticket_id}", {"ticket": fields})).status == 400
        assert (await api.call("GET", f"tickets/{ticket_id}")).body == before


async def test_a_ticket_is_made_for_a_phone_or_a_requester() -> None:
    async with running() as api:
        first = await new_ticket(api, ticket_comment="xin chào", ticket_priority="High")
        requester = api.gateway.state.tickets[first].requester_id
        second = await new_ticket(api, phone=None, requester_id=requester)
        assert api.gateway.state.tickets[second].requester_id == requester
        shown = (await api.call("GET", f"tickets/{first}")).json["ticket"]
        assert (shown["ticket_priority"], shown["comments"][0]["comment"]) == ("High", "xin chào")
        for bad in ({}, {"ticket_subject": "a"}, {"ticket_subject": "", "phone": PHONE}, {"requester_id": 5}):
            assert (await api.call("POST", "tickets", {"ticket": bad})).status == 400


async def test_lists_come_in_pages_of_50_and_never_more_than_500() -> None:
    async with running() as api:
        for n in range(510):
            api.gateway.state.add_ticket(subject=str(n), requester_id=1, source="API")

        async def page(query: str) -> tuple[int, list[str]]:
            got = (await api.call("GET", f"tickets?{query}")).json
            return got["numFound"], [ticket["ticket_subject"] for ticket in got["tickets"]]

        numbers = [str(n) for n in range(510)]
        assert await page("") == (510, numbers[:50])
        assert await page("page=2&count=20") == (510, numbers[20:40])
        assert await page("count=1000") == (510, numbers[:500])
        assert await page("count=1000&page=2") == (510, numbers[500:])
        assert await page("page=9&count=500") == (510, [])
        for bad in ("page=0", "count=0", "page=x", "created_since=yesterday"):
            assert (await api.call("GET", f"tickets?{bad}")).status == 400


async def test_lists_are_cut_by_windows_of_creation_and_update() -> None:
    async with running() as api:
        tickets = []
        for _ in range(3):
            tickets.append((await api.sms()).json["ticket"]["ticket_id"])
            api.clock.now += 60
        await api.sms(ticket_id=tickets[0])

        async def listed(query: str) -> list[int]:
            return [ticket["ticket_id"] for ticket in (await api.call("GET", f"tickets?{query}")).json["tickets"]]

        assert await listed("created_since=2026-11-22T03:01:00Z") == tickets[1:]
        assert await listed("created_to=2026-11-22T03:01:00Z") == tickets[:2]
        assert await listed("created_since=2026-11-22 10:02:00") == tickets[2:]
        assert await listed("updated_since=2026-11-22T03:03:00Z") == tickets[:1]
        assert await listed("updated_since=2026-11-22T03:01:00Z&updated_to=2026-11-22T03:02:00Z") == tickets[1:]
        assert await listed("order_by=updated_at&order_type=desc") == [tickets[0], tickets[2], tickets[1]]


async def test_search_takes_digits_for_the_ticket_number_and_text_for_the_subject() -> None:
    async with running(first_ticket_no=1) as api:
        first = await new_ticket(api, "Đơn hàng A1 giao chậm")
        second = await new_ticket(api, "Đổi trả A2")
        assert await found(api, q="2") == [second]
        assert await found(api, q=PHONE) == []
        assert await found(api, q="đơn CHẬM") == [first]
        assert await found(api, ticket_subject="a2") == [second]
        assert await found(api) == [first, second]


async def test_search_by_custom_fields_knows_equality_and_ranges() -> None:
    async with running() as api:
        cheap = await new_ticket(api, custom_fields=[{"id": 71, "value": "A1"}, {"id": 72, "value": 90}])
        dear = await new_ticket(api, custom_fields=[{"id": 71, "value": "A2"}, {"id": 72, "value": 1000}])
        await new_ticket(api)

        async def where(**condition: Any) -> list[int]:
            return await found(api, custom_fields=[condition])

        assert await where(field_id=71, field_value="A1") == [cheap]
        assert await where(field_id="72", field_value="90.0") == [cheap]
        assert await where(field_id=72, field_value_since=90) == [cheap, dear]
        assert await where(field_id=72, field_value_since=91, field_value_to=1000) == [dear]
        assert await where(field_id=72, field_value_greater=90) == [dear]
        assert await where(field_id=72, field_value_lesser=1000) == [cheap]
        assert await where(field_id=71, field_value_greater="A1") == [dear]


@pytest.mark.parametrize(
    "body",
    [
        {"type": "USER"},
        {"params": []},
        {"params": {"custom_fields": {}}},
        {"params": {"custom_fields": [{"field_id": 1}]}},
        {"params": {"custom_fields": ["x"]}},
        {"count": -1},
    ],
)
async def test_a_bad_search_is_refused(body: dict[str, Any]) -> None:
    async with running() as api:
        assert (await api.call("POST", "search", body)).status == 400


async def test_services_with_and_without_the_one_for_sms() -> None:
    async with running(services={12: "SMS", 3: "EMAIL"}) as api:

        async def ids(query: str = "") -> list[int]:
            return [service["service_id"] for service in (await api.call("GET", f"services{query}")).json["services"]]

        assert await ids() == [12, 3]
        assert await ids("?type=3") == [3]
        assert await ids("?type=99") == []
        api.gateway.change(list_sms_services=False)
        assert await ids() == [3]


async def test_custom_fields_agents_and_groups_are_listed() -> None:
    async with running() as api:
        fields = (await api.call("GET", "tickets/custom_fields")).json["custom_fields"]
        assert [sorted(field) for field in fields] == [
            ["custom_field_id", "custom_field_lable", "type", "values"]
        ] * len(fields)
        groups = (await api.call("GET", "groups")).json["groups"]
        assert [sorted(group) for group in groups] == [["created_at", "group_id", "group_name"]]
        agent = (await api.call("GET", "agents")).json["agents"][0]
        assert agent["id"] == (await api.sms()).json["ticket"]["assignee_id"]

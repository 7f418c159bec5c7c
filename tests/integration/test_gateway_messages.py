"""`POST sms` and `POST zalo/zns`: what is accepted, onto which ticket, and what is refused."""

import io
import json
from typing import Any

import pytest

from listener.simulator.gateway import Channel, ClosedTicket, Port, UnknownTicket
from tests.integration.gateway_client import PHONE, START, TOKEN, Api, running


async def refusal(api: Api, path: str, body: Any) -> str:
    """The message of a call that must be refused without effect."""
    tickets = len(api.gateway.state.tickets)
    got = await api.call("POST", path, body)
    assert (got.status, got.json["code"]) == (400, "errors")
    assert api.gateway.state.ledger == []
    assert len(api.gateway.state.tickets) == tickets
    return str(got.json["message"])


@pytest.mark.parametrize("service_id", [12, "12"])
async def test_a_valid_sms_is_answered_with_four_ints_and_written_to_the_ledger(service_id: int | str) -> None:
    async with running() as api:
        got = await api.sms("Số dư còn 90.000 VND", service_id=service_id)
        assert got.status == 200
        assert got.json["code"] == "ok"
        ticket = got.json["ticket"]
        assert list(ticket) == ["ticket_id", "ticket_no", "requester_id", "assignee_id"]
        assert all(type(value) is int for value in ticket.values())
        (entry,) = api.gateway.state.ledger
        assert (entry.seq, entry.at, entry.port, entry.channel) == (1, START, Port.PRIMARY, Channel.SMS)
        assert (entry.service_id, entry.template_id, entry.phone) == (12, None, PHONE)
        assert (entry.content, entry.ticket_id_sent, entry.ticket_id) == (
            "Số dư còn 90.000 VND",
            None,
            ticket["ticket_id"],
        )
        assert json.loads(entry.body)["sms"]["service_id"] == service_id


async def test_equal_posts_are_not_deduplicated() -> None:
    async with running() as api:
        first, second = await api.sms("same"), await api.sms("same", backup=True)
        assert first.json["ticket"]["ticket_id"] != second.json["ticket"]["ticket_id"]
        assert [(entry.seq, entry.port) for entry in api.gateway.state.ledger] == [(1, "primary"), (2, "backup")]
        (duplicate,) = api.gateway.state.counters().duplicates
        assert (duplicate.phone, duplicate.content, duplicate.count) == (PHONE, "same", 2)


@pytest.mark.parametrize("ticket", [{}, {"ticket_id": None}, {"ticket_id": 0}, {"ticket_id": ""}, {"ticket_id": "0"}])
async def test_without_a_ticket_id_a_new_ticket_is_made(ticket: dict[str, Any]) -> None:
    async with running() as api:
        before = (await api.sms()).json["ticket"]
        after = (await api.sms(**ticket)).json["ticket"]
        assert after["ticket_no"] == before["ticket_no"] + 1
        assert after["ticket_id"] != before["ticket_id"]
        assert after["requester_id"] == before["requester_id"]
        assert api.gateway.state.tickets[after["ticket_id"]].status == "new"
        assert api.gateway.state.ledger[1].ticket_id_sent is None


async def test_the_same_person_is_found_whatever_the_form_of_the_phone() -> None:
    async with running() as api:
        requesters = {
            (await api.sms(phone=phone)).json["ticket"]["requester_id"]
            for phone in ("0980000000", "+84980000000", "84980000000")
        }
        other = (await api.sms(phone="0980000001")).json["ticket"]["requester_id"]
        assert len(requesters) == 1
        assert other not in requesters
        assert [entry.phone for entry in api.gateway.state.ledger][1] == "+84980000000"


@pytest.mark.parametrize("as_text", [False, True])
async def test_a_known_ticket_is_kept_with_its_requester_and_gets_a_comment(as_text: bool) -> None:
    async with running() as api:
        first = (await api.sms("one")).json["ticket"]
        api.clock.now += 60
        ticket_id = first["ticket_id"]
        second = (await api.sms("two", phone="0911111111", ticket_id=str(ticket_id) if as_text else ticket_id)).json
        assert second["ticket"] == first
        ticket = api.gateway.state.tickets[ticket_id]
        assert [comment.text for comment in ticket.comments] == ["one", "two"]
        assert (ticket.created_at, ticket.updated_at) == (START, START + 60)
        entry = api.gateway.state.ledger[1]
        assert (entry.ticket_id_sent, entry.ticket_id) == (ticket_id, ticket_id)
        assert entry.comment_id == ticket.comments[1].id


async def test_an_unknown_ticket_is_refused_by_default() -> None:
    async with running() as api:
        body = {"sms": {"service_id": 12, "content": "a", "phone": PHONE, "ticket_id": 77}}
        assert await refusal(api, "sms", body) == "Ticket not found"


async def test_an_unknown_ticket_may_become_a_new_one() -> None:
    async with running(unknown_ticket=UnknownTicket.NEW) as api:
        got = await api.sms(ticket_id=77)
        assert got.status == 200
        assert got.json["ticket"]["ticket_id"] != 77
        (entry,) = api.gateway.state.ledger
        assert (entry.ticket_id_sent, entry.ticket_id) == (77, got.json["ticket"]["ticket_id"])


async def test_a_closed_ticket_takes_messages_unless_told_otherwise() -> None:
    async with running() as api:
        ticket_id = (await api.sms()).json["ticket"]["ticket_id"]
        closed = await api.call("PUT", f"tickets/{ticket_id}", {"ticket": {"ticket_status": "closed"}})
        assert closed.status == 200
        assert (await api.sms(ticket_id=ticket_id)).json["ticket"]["ticket_id"] == ticket_id
        api.gateway.change(closed_ticket=ClosedTicket.REFUSE)
        got = await api.sms(ticket_id=ticket_id)
        assert (got.status, got.json["message"]) == (400, "Ticket is closed")
        assert len(api.texts) == 2


VALID = {"service_id": "12", "content": "a", "phone": PHONE}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Body is not JSON"),
        (b"{", "Body is not JSON"),
        (b'{"sms":"\xff"}', "Body is not JSON"),
        (b"[" * 100_000, "Body is not JSON"),
        ([VALID], "Body is not a JSON object"),
        ({}, "sms is required"),
        ({"sms": [VALID]}, "sms is required"),
        ({"sms": {**VALID, "service_id": None}}, "service_id is invalid"),
        ({"sms": {**VALID, "service_id": "twelve"}}, "service_id is invalid"),
        ({"sms": {**VALID, "service_id": True}}, "service_id is invalid"),
        ({"sms": {**VALID, "service_id": "99"}}, "service_id is invalid"),
        ({"sms": {**VALID, "service_id": 3}}, "service_id is invalid"),
        ({"sms": {**VALID, "content": None}}, "content is required"),
        ({"sms": {**VALID, "content": 5}}, "content is required"),
        ({"sms": {**VALID, "content": " \n"}}, "content is required"),
        ({"sms": {**VALID, "content": "ữ" * 1001}}, "content is longer than 1000 characters"),
        ({"sms": {"service_id": "12", "content": "a"}}, "phone is invalid"),
        ({"sms": {**VALID, "phone": 980000000}}, "phone is invalid"),
        ({"sms": {**VALID, "phone": "098000000"}}, "phone is invalid"),
        ({"sms": {**VALID, "phone": "0980000000,0980000001"}}, "phone is invalid"),
        ({"sms": {**VALID, "phone": "٠٩٨٠٠٠٠٠٠٠"}}, "phone is invalid"),
        ({"sms": {**VALID, "ticket_id": "abc"}}, "ticket_id is invalid"),
        ({"sms": {**VALID, "ticket_id": 1.5}}, "ticket_id is invalid"),
        ({"sms": {**VALID, "ticket_id": True}}, "ticket_id is invalid"),
        ({"sms": {**VALID, "ticket_id": [1]}}, "ticket_id is invalid"),
    ],
)
async def test_a_bad_sms_is_refused_without_effect(body: Any, message: str) -> None:
    async with running(services={12: "SMS", 3: "EMAIL"}) as api:
        assert await refusal(api, "sms", body) == message


async def test_a_text_of_exactly_the_longest_length_is_accepted() -> None:
    async with running(sms_max=20) as api:
        assert (await api.sms("ữ" * 20)).status == 200
        assert (await api.sms("ữ" * 21)).status == 400


async def test_a_refusal_may_come_as_http_200() -> None:
    async with running(refusal_status=200) as api:
        got = await api.sms(service_id=99)
        assert (got.status, got.json) == (200, {"code": "errors", "message": "service_id is invalid"})
        assert api.gateway.state.ledger == []


async def test_a_lone_surrogate_survives_the_way_through() -> None:
    async with running() as api:
        assert (await api.sms("a\ud800")).status == 200
        assert api.texts == ["a\ud800"]


async def test_zns_is_a_channel_of_its_own_with_the_same_ticket_rules() -> None:
    async with running(zns_templates=(301,)) as api:
        body = {"phone": PHONE, "template_id": 301, "params": {"tên": "Đặng", "mã": 1}}
        first = (await api.call("POST", "zalo/zns", {"zns": body})).json["ticket"]
        second = (await api.call("POST", "zalo/zns", {"zns": {**body, "ticket_id": first["ticket_id"]}})).json["ticket"]
        assert second == first
        new, _ = api.gateway.state.ledger
        assert (new.channel, new.service_id, new.template_id) == (Channel.ZNS, None, 301)
        assert new.content == '{"mã": 1, "tên": "Đặng"}'
        without_params = {"phone": PHONE, "template_id": "301"}
        assert (await api.call("POST", "zalo/zns", {"zns": without_params})).status == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template_id": 302}, "template_id is invalid"),
        ({"template_id": None}, "template_id is invalid"),
        ({"params": ["a"]}, "params is not an object"),
        ({"phone": "1"}, "phone is invalid"),
        ({"ticket_id": 9}, "Ticket not found"),
    ],
)
async def test_a_bad_zns_message_is_refused(fields: dict[str, Any], message: str) -> None:
    async with running() as api:
        assert await refusal(api, "zalo/zns", {"zns": {"phone": PHONE, "template_id": 301, **fields}}) == message


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"{}", {"Content-Encoding": "gzip"}, id="not packed as it says"),
        pytest.param(b" " * (1 << 21), {}, id="too large"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(body: bytes, headers: dict[str, str]) -> None:
    async with running() as api:
        url = f"{api.gateway.url}/acme/api/v1/sms"
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        async with api.session.post(url, data=io.BytesIO(body), headers=headers) as got:
            assert (got.status, (await got.json())["code"]) == (400, "errors")
        assert [request.status for request in api.gateway.state.requests] == [400]

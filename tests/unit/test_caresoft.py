"""What an answer means, for any answer at all."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.caresoft import gateway_words, read_answer
from listener.model import Accepted, LockedOut, Rejected, TicketRefused

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["code", "message", "ticket", "ticket_id"]), inner),
    max_leaves=8,
)
BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


@given(status=st.integers(200, 599), retry_after=st.none() | st.text(), body=BODIES, ticket=st.none() | st.just(7))
def test_whatever_comes_is_one_of_the_outcomes(
    status: int, retry_after: str | None, body: bytes, ticket: int | None
) -> None:
    outcome = read_answer(status, retry_after, body, ticket)
    if isinstance(outcome, Accepted):
        assert status == 200
        assert 0 < outcome.ticket < 2**63
    if isinstance(outcome, Rejected):
        assert status in (200, 400, 413, 422)
    if isinstance(outcome, TicketRefused):
        assert ticket is not None


@given(status=st.sampled_from([429, 500, 502, 503, 504, 408]), body=BODIES)
def test_nothing_but_a_clear_no_is_a_no(status: int, body: bytes) -> None:
    assert not isinstance(read_answer(status, None, body, 7), Accepted | Rejected | TicketRefused)


@given(st.text(max_size=400))
@example("one\r\nor\x85more\u2028lines\u2029of it")
def test_the_gateways_words_are_one_short_line(message: str) -> None:
    words = gateway_words(message)
    assert len(words) <= 200
    assert words.splitlines() in ([words], [])
    words.encode()


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("phone 0980000000 is bad", "phone 098***000 is bad"),
        ("+84 98 000 0000!", "+84***000!"),
        ("khách (0912) 345 678 gọi", "khách (091***678 gọi"),
        ("(0912)345-678", "(091***678"),
        ("error 400 (12345)", "error 400 (12345)"),
        # too short to show both ends of
        ("no 3812 3456", "no ***"),
        ("line one\r\nline two\x00", "line one line two"),
        ("Domain incorrect", "Domain incorrect"),
        (None, ""),
        (["x"], ""),
    ],
)
def test_the_gateways_words_hold_no_phone(message: object, kept: str) -> None:
    assert gateway_words(message) == kept


def test_the_gateways_words_hold_no_secret() -> None:
    assert gateway_words("token abc123: ACME: Don DH42", ("abc123", "ACME: Don DH42")) == "token ***: ***"


@pytest.mark.parametrize(
    ("message", "minutes"), [("retry after 15 minutes ", 15), ("retry after 1 minute", 1), ("later", 15)]
)
def test_the_minutes_of_a_lock_out(message: str, minutes: int) -> None:
    body = json.dumps({"code": "errors", "message": f"Domain incorrect too many times , {message}"}).encode()
    assert read_answer(404, None, body, None) == LockedOut(minutes=minutes)


@pytest.mark.parametrize(
    "body",
    [
        b'{code:"errors",message:"Domain incorrect too many times , retry after 20 minutes "}',
        b"<html>Too  many\ntimes: retry after 20 minutes</html>",
        b'"too many times, retry after 20 minutes"',
        b"\xff too many times, retry after 20 minutes",
    ],
)
def test_a_lock_out_is_recognised_without_valid_json_around_it(body: bytes) -> None:
    assert read_answer(404, None, body, 7) == LockedOut(minutes=20)

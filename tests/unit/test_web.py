"""What the page decides without a request: sessions, throttle, words, what needs a person, the chart's scale."""

import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import nodes

from listener.web import page
from listener.web.access import SESSION_S, Access, Role, Throttle, same_origin
from listener.web.charts import nice_top
from listener.web.concerns import Level, concerns, sentence
from listener.web.texts import LANGUAGES, WORDS
from listener.words import LOCAL

WEB = Path(page.__file__).parent


def test_a_session_is_what_its_token_gave_until_it_ends() -> None:
    access = Access("admin", "view")
    for token, role in (("admin", Role.OPERATE), ("view", Role.VIEW)):
        found = access.session(access.cookie(access.role_of(token) or Role.VIEW, " Lan\nAnh ", 1000.0), 1000.0)
        assert found is not None
        assert (found.role, found.name, found.operates) == (role, "LanAnh", role is Role.OPERATE)
    cookie = access.cookie(Role.VIEW, "", 1000.0)
    assert access.session(cookie, 1000.0 + SESSION_S) is None
    assert Access("admin", "other").session(cookie, 1000.0) is None
    assert Access("admin", None).session(cookie, 1000.0) is None
    assert access.role_of("") is None
    assert access.role_of("admin ") is None
    assert not Access(None, None).is_set


def test_whoever_holds_the_lesser_token_cannot_make_the_greater_session() -> None:
    cookie = Access("view", "view").cookie(Role.OPERATE, "", 0.0)
    assert Access("admin", "view").session(cookie, 0.0) is None


@given(st.text(max_size=300))
def test_a_cookie_that_is_not_ours_is_nobody(cookie: str) -> None:
    assert Access("admin", "view").session(cookie, 0.0) is None


@pytest.mark.parametrize("said", ["[" * 3000, '{"role": "operate", "ends": 1' + "0" * 400 + "}"])
def test_a_cookie_that_python_cannot_take_in_is_nobody(said: str) -> None:
    cookie = base64.urlsafe_b64encode(said.encode()).decode() + ".00"
    assert Access("admin", "view").session(cookie, 0.0) is None


@given(st.data())
def test_a_changed_cookie_is_nobody(data: st.DataObject) -> None:
    access = Access("admin", "view")
    cookie = access.cookie(Role.VIEW, "Lan", 0.0)
    place = data.draw(st.integers(0, len(cookie) - 1))
    char = data.draw(st.characters(codec="ascii").filter(lambda c: c != cookie[place]))
    assert access.session(cookie[:place] + char + cookie[place + 1 :], 0.0) is None


def test_ten_thousand_wrong_logins_are_a_handful_of_tries() -> None:
    throttle, tries = Throttle(), 0
    for n in range(10_000):
        tries += throttle.wait("192.0.2.1", 100.0 + n / 1000) == 0
    assert tries <= Throttle.BURST + 10 / Throttle.EVERY + 1
    assert throttle.wait("192.0.2.2", 110.0) == 0


def test_many_addresses_together_are_slowed_too() -> None:
    throttle = Throttle()
    tries = sum(throttle.wait(f"192.0.2.{n}", 100.0) == 0 for n in range(10_000))
    assert tries <= 10 * Throttle.BURST


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://a.example"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://127.0.0.1:8080"}, True),
        ({"Origin": "http://127.0.0.1:9"}, False),
        ({"Origin": "null"}, False),
        ({}, True),
    ],
)
def test_other_sites_pages_are_told_apart(headers: dict[str, str], fine: bool) -> None:
    assert same_origin(headers, "127.0.0.1:8080") is fine


def test_every_word_is_there_in_both_languages_with_the_same_holes() -> None:
    for key, both in WORDS.items():
        assert len(both) == len(LANGUAGES)
        assert all(text.strip() for text in both), key
        holes = [set(re.findall(r"{(\w+)}", text)) - {"s"} for text in both]
        assert holes[0] == holes[1], key


def test_templates_use_words_that_exist() -> None:
    env = page._environment()
    used = set()
    for name in env.list_templates():
        tree = env.parse((WEB / "pages" / name).read_text(encoding="utf-8"))
        used |= {n.attr for n in tree.find_all(nodes.Getattr) if isinstance(n.node, nodes.Name) and n.node.name == "t"}
    assert used
    assert used <= set(WORDS), used - set(WORDS)


def test_pages_hold_no_inline_script_or_style_and_nothing_from_elsewhere() -> None:
    for file in (WEB / "pages").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|<script(?![^>]*\bsrc=)|\son\w+=|hx-on|javascript:|\|\s*safe", text), file
        assert not re.search(r"(src|href|action)=[\"']https?:", text), file


def test_vendored_files_are_what_they_are_said_to_be() -> None:
    for folder in (WEB / "static" / "vendor", Path(__file__).parents[1] / "pages" / "vendor"):
        said = dict(
            re.findall(r"^\| `([\w.-]+\.js)` .*`([0-9a-f]{64})` \|$", (folder / "VENDORED.md").read_text(), re.M)
        )
        there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.js")}
        assert there
        assert said == there


FAILING = {"watch": "birthday", "since": datetime(2026, 11, 22, tzinfo=UTC), "reason": "UndefinedTable 42P01"}


def status(**changed: Any) -> dict[str, Any]:
    return {
        "replicas": 1,
        "pauses": [],
        "accounts": {"main": {"paused_until": None, "reason": None}},
        "capture_failures": 0,
        "capture_failures_new": 0,
        "outbox": 0,
        "outbox_oldest_s": None,
        "failing_selects": [],
        "failing_saves": [],
        "brakes": [],
        "held_apart": 0,
        "lost_replicas": {"n": 0, "seen_at": None},
        "deaf": False,
        "notify_queue": 0.0,
        "rules": {"ok": True, "faults": []},
        "messages": {"unknown": 0, "held": 0},
        "muted": 0,
        "oldest_due_s": None,
        "mode": "live",
    } | changed


def test_all_is_well_when_it_is() -> None:
    assert concerns(status(), 0) == []
    assert sentence([], status()).text == "c_ready"
    assert sentence([], status(messages={"accepted": 1})).text == "c_good"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"replicas": 0}, "c_no_replica"),
        ({"pauses": [{"target": "everything", "who": "page/Lan", "reason": "x"}]}, "c_all_paused"),
        ({"pauses": [{"target": "everything", "who": "listener", "reason": "x"}]}, "c_unconfirmed"),
        ({"outbox_oldest_s": 31.0}, "c_unmatched"),
        ({"accounts": {"main": {"paused_until": 1, "reason": "the token is refused"}}}, "c_account"),
        ({"capture_failures_new": 3}, "c_capture"),
        ({"failing_selects": [FAILING]}, "c_select"),
        ({"rules": {"ok": False, "faults": [{}]}}, "c_rules"),
    ],
)
def test_what_stops_sending_is_the_sentence(changed: dict[str, Any], text: str) -> None:
    now = status(**changed)
    said = sentence(concerns(now, 5), now)
    assert (said.level, said.text) == (Level.BAD, text)


def test_what_a_person_should_see_is_named_worst_first() -> None:
    now = status(
        messages={"unknown": 2},
        held_apart=1,
        capture_failures_new=1,
        muted=4,
        deaf=True,
        notify_queue=0.3,
        failing_selects=[FAILING],
        failing_saves=[{"rule": "r", "n": 1, "reason": "UndefinedColumn"}],
        brakes=[{"rule": "r", "held": 3}],
        lost_replicas={"n": 1, "seen_at": datetime(2026, 11, 22, tzinfo=UTC)},
        pauses=[{"target": "phone 091***678", "who": "page/Lan", "reason": "the pause's time was over"}],
    )
    found = concerns(now, 7, gaps=["create trigger x"], stuck={"match": 25.0})
    assert " ".join(c.text for c in found) == (
        "c_stuck c_gap c_capture c_select c_saves c_brake c_paused c_unknown c_held c_rejected c_lost c_deaf "
        "c_notify_queue c_muted"
    )
    for lang, words in (
        ("vi", ("Số điện thoại 091***678", "đã hết thời gian")),
        ("en", ("Phone", "25 s", "1 held m", "1 ticket of")),
    ):
        told = " ".join(page.said(concern, lang) for concern in found)
        assert all(word in told for word in words), told
        assert "{" not in told


def test_one_sentence_says_what_needs_a_person_first() -> None:
    one = status(brakes=[{"rule": "r", "held": 3}])
    found = concerns(one, 0)
    assert page.said(sentence(found, one), "en") == (
        "Sending works, but the brake holds rule r: it made too many messages (3 held)."
    )
    found = concerns(one, 1)
    assert page.said(sentence(found, one), "en").endswith("(1 more below.)")
    late = status(oldest_due_s=1200.0)
    assert sentence(concerns(late, 0), late).text == "c_slow"


@given(st.integers(0, 10**9))
def test_the_scale_holds_the_highest_bar_and_wastes_little(highest: int) -> None:
    top = nice_top(highest)
    assert top >= highest
    assert top % 3 == 0
    assert highest <= 3 or top < 3 * highest


def test_a_time_of_another_year_is_not_taken_for_one_of_this() -> None:
    now = datetime.now(LOCAL)
    assert page.clock(now.replace(year=now.year + 1, day=1)) == f"{now:01/%m}/{now.year + 1} {now:%H:%M}"
    assert page.clock(now) == f"{now:%H:%M:%S}"

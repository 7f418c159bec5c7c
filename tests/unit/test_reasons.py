"""Reasons in Vietnamese: none that this product writes down stays in English."""

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from listener import interventions, phones, reasons
from listener.errors import RenderError, RulesError
from listener.interventions import Verb
from listener.model import LockedOut, RateLimited, State, Unauthorized, Unknown
from listener.reasons import in_vietnamese
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.rules.schema import ColumnChange
from listener.settling import pause_for
from listener.templates import Environment, Row
from tests.unit.test_conditions import ABSENT, N, change, refusal

# a reason that is partly kept (a column, a condition, a person's words) is still Vietnamese around it
VIETNAMESE = re.compile("[ăâđêôơưạảãàáẹẻẽèéịỉĩìíọỏõòóụủũùúỵỷỹỳýấầẩẫậắằẳẵặếềểễệốồổỗộớờởỡợứừửữự]", re.IGNORECASE)


LISTENER = Path(reasons.__file__).parent
SQL = LISTENER.parent / "sql"
# where reasons are written: whatever is said in words here is one, unless it stands in the list below
WRITERS = (
    "arithmetic", "caresoft", "delivery", "filters", "identity", "interventions", "lookups", "matching", "operators",
    "pauses", "personal", "phones", "planning", "preview", "recheck", "reconcile", "replay", "sandbox", "settling",
    "text", "upkeep", "why", "rules/conditions", "rules/judging", "rules/ruleset", "web/message_page",
)  # fmt: skip
# made or given anywhere, these hold a reason; what a table lacks is told of a row that is read again, or tried
ERRORS = frozenset({"RenderError", "TooShortError", "Missing"})
OF_TABLES = ("capture/tables", "capture/triggers", "capture/where")
KEYWORDS = frozenset({"reason", "note", "cause"})
# what is said of a rule's file is not a reason of a message, nor is what only the command line says
OTHERS = ("rules/expressions.py", "simulator/", "cli/", "demo.py")
NOT_REASONS = frozenset(
    {
        # pieces of a reason that the tests below put together
        "7 by 7",
        "to be sent again",
        "7; it reads 7",
        r"; (?:its new form is|it reads) [0-9]{3}\*\*\*[0-9]{3}",
        "`7` does nothing to a message in the state 7",
        "the 7 is paused: 7",
        "; join texts with ~, and make a number of a text with | float",
        # kept as it is: the database's own words, whoever's the rest
        "7: 7; let its owner 7",
        # logged, printed by the command line, or kept with a ticket that could not be saved
        "nothing is sent until `listener resume`",
        "triggers do not ring at half; full, others' NOTIFY fails",
        "the times in this log, and nothing else",
        "a table of parts needs rising, positive lengths",
        "7 unfinished messages that are being sent or go to others and name this phone",
        "a pause of this phone, which keeps SMS from it; `listener resume --phone` ends it",
        "its place on the suppression list, so that no SMS is sent to it",
        "there are no rules in force here that this version can read; start `listener run` once",
        "the rules have no such rule with `ticket.save` any more",
        "row-level security of listener.7",
        "CACHE of the outbox''s sequence",
        # a verb of the audit, which has words of its own
        "release muted",
        # what is said of a file
        "it is unclear whether the dot parts thousands",
        "write 100000 without it, or 100.0000 for a fraction",
        "the query has other parameters than its %(column)s",
        "where: a sign or a function here is PostgreSQL's own, and the schema 7 has another for this type (as for "
        "citext, whose = takes VIP for vip): write NEW.code OPERATOR(public.=) 'vip', with the schema, for that one, "
        "or NEW.code::text = 'vip' for PostgreSQL's",
        "where: there is no parameter 7; name a column as NEW.column",
        "where: 7; write session_user for whoever made the change",
        "where: 7: a function called here needs the search_path of the ERP's sessions, which a trigger cannot rely on; "
        "give it its own, ALTER FUNCTION ... SET search_path = ...",
        # what the database's own functions refuse
        "a message cannot go from % to % (permits % to %)",
        "everything is kept for two days at least",
        "listener could not capture a change (%)",
    }
)
# names of tasks, operators and targets; statements; rights and times
NO_WORDS = re.compile(
    r"(disown|deliver|send|phone|account|rule|version|Bearer) 7|op \w+|7::.*|unnest\(.*|7 on 7 (to|from) 7"
    r"|(SELECT|CASE|PREPARE|SET|ALTER|CREATE|INCLUDING|DROP|GRANT|REVOKE)\b.*|[0-9]+ (s|min|hours?|days?)|[0-9 :+-]+",
    re.DOTALL,
)
WORDS = re.compile(r"\w{2,}[`\"']? +[`\"'(]?\w|\w [a-z]{2,}")
STANDS_FOR = {
    **dict.fromkeys(("kind", "_kind"), "a list"),
    "similar": 'did you mean "7"?',
    "did_you_mean": "; did you mean 7?",
    "target": "rule 7",
    **dict.fromkeys(("reason", "sentence", "why"), "found on its ticket"),
}


def said(node: ast.AST) -> str | None:
    """The words of a string, with a 7 for each value in it, or what such a value may be."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    names = [
        (v.value.func if isinstance(v.value, ast.Call) else v.value) if isinstance(v, ast.FormattedValue) else None
        for v in node.values
    ]
    return "".join(
        STANDS_FOR.get(name.id if isinstance(name, ast.Name) else "", "7") if name is not None else str(said(v))
        for name, v in zip(names, node.values, strict=True)
    )


def said_in(module: Path) -> Iterator[str]:
    """What a module says in words, its docstrings aside; of one that writes no reasons itself, what it calls one."""
    tree = ast.parse(module.read_text())
    name = module.relative_to(LISTENER).with_suffix("").as_posix()
    everything, errors = name in WRITERS, ERRORS | ({"ListenerError"} if name in OF_TABLES else frozenset())
    aside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            aside.add(node.value)
        if isinstance(node, ast.JoinedStr):
            aside |= {*ast.walk(node)} - {node}
    for node in ast.walk(tree):
        found: list[ast.AST] = [node] if everything and node not in aside else []
        if isinstance(node, ast.Call):
            found += node.args if isinstance(node.func, ast.Name) and node.func.id in errors else []
            found += [k.value for k in node.keywords if k.arg in KEYWORDS]
        yield from (words for one in found if (words := said(one)) and WORDS.search(words))


def said_in_sql(script: Path) -> Iterator[str]:
    """What a script writes in words, and whatever it writes into a reason or note."""
    text = re.sub(r"--.*", "", script.read_text())
    text = re.sub(r"' \|\| \w+ \|\| '|%?%s", "7", text)
    texts = [words for words in re.findall(r"'((?:[^']|'')*)'", text) if WORDS.search(words)]
    kept = re.findall(r"\b(?:reason|note) (?:=|IS DISTINCT FROM) '([^']+)'", text)
    return (words.removeprefix("; ") for words in {*texts, *kept})


SAID: dict[str, set[str]] = {
    path.relative_to(LISTENER.parent).as_posix(): {words for words in read(path) if not NO_WORDS.fullmatch(words)}
    for read, paths in ((said_in, LISTENER.rglob("*.py")), (said_in_sql, SQL.rglob("*.sql")))
    for path in paths
    if path.parent.name != "demo" and not path.relative_to(LISTENER.parent).as_posix().startswith(
        tuple(f"listener/{other}" for other in OTHERS)
    )
}  # fmt: skip


@pytest.mark.parametrize("place", sorted(place for place, words in SAID.items() if words))
def test_whatever_is_written_as_a_reason_is_known(place: str) -> None:
    """A piece that is not known is `…`; one that is leaves more than that."""
    unknown = [
        reason
        for reason in SAID[place] - NOT_REASONS
        if "…" in reasons.without_values(reason, vietnamese=True).split("; ")
        or not VIETNAMESE.search(in_vietnamese(reason))
    ]
    assert unknown == []


def test_what_is_left_out_is_written_somewhere_and_what_is_known_is_read() -> None:
    """So that neither list can grow old, nor the reading of the sources come to find nothing."""
    everything = set().union(*SAID.values())
    assert everything >= NOT_REASONS
    assert {f"listener/{writer}.py" for writer in WRITERS} <= {place for place, words in SAID.items() if words}
    assert everything >= {
        "the row could not be read again",
        "7 is a list, which cannot be compared",
        "it did arrive, says 7",
        "forgotten",
        "perhaps sent before",
        "a newer message of the rule 7 replaces it",
        "7 has no column 7; did you mean 7?",
        "the template cannot be worked out (7)",
    }


@pytest.mark.parametrize("verb", Verb)
def test_what_a_person_did_or_could_not_do(verb: Verb) -> None:
    done = f"{interventions._DONE[verb]} by lan/erp"
    for note in (done, f"{done}: sai giá", f"{done}; perhaps sent before"):
        assert reasons.without_values(note, vietnamese=True).startswith("… ")
    for state, whole in product(State, (True, False)):
        why = interventions._why_not(verb, state, whole=whole)
        told = in_vietnamese(why)
        assert VIETNAMESE.search(told)
        # nothing of the English is left
        assert state.value not in told
        assert "…" not in reasons.without_values(why, vietnamese=True)


@pytest.mark.parametrize("reason", phones.Reason)
def test_phones(reason: phones.Reason) -> None:
    suggestion = "0392345678" if reason is phones.Reason.OLD_11_DIGIT else None
    said = in_vietnamese(phones.reason_text(phones.BadPhone(reason=reason, suggestion=suggestion)))
    assert VIETNAMESE.search(said)
    assert (suggestion is None) or said.endswith("039***678")


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ({"to": "b"}, "b", "b"),
        ({"from": ["a", "c"]}, "x", "b"),
        ({"to": "b"}, "a", "c"),
        ({"crosses_below": 5}, N(5), N(6)),
        ({"crosses_above": 5}, N(5), N(4)),
        ({"increases_by": 5}, N(5), N(6)),
        ({"decreases_by": 5}, N(5), N(4)),
        ({"crosses_below": 5}, None, N(6)),
    ],
)
@pytest.mark.parametrize("old_known", [True, False])
def test_conditions(words: dict[str, Any], old: object, new: object, old_known: bool) -> None:
    asked = ColumnChange.model_validate(words)
    why = refusal("x", asked, change(old if old_known else ABSENT, new), old_known=old_known)
    assert why is None or VIETNAMESE.search(in_vietnamese(why))
    assert why is not None or not old_known


@pytest.mark.parametrize(
    "outcome",
    [
        RateLimited(retry_after=None),
        LockedOut(minutes=15),
        Unauthorized(status=401),
        Unknown(cause="no answer in time"),
    ],
)
def test_pauses(outcome: RateLimited | LockedOut | Unauthorized | Unknown) -> None:
    pause = pause_for(outcome, 1, 20, lambda: 0.5)
    assert pause is not None
    assert VIETNAMESE.search(in_vietnamese(pause.reason))


@pytest.mark.parametrize(
    ("english", "vietnamese"),
    [
        ("`when` is not true: new.x == 'a; b'", "điều kiện `when` không đúng: new.x == 'a; b'"),
        ("perhaps sent: no answer in time", "có thể đã gửi: không có câu trả lời kịp thời"),
        (
            "waited past its `expires`; last: too many requests (429)",
            "chờ quá thời hạn `expires`; lần cuối: quá nhiều yêu cầu (429)",
        ),
        ("sent after all; joined with a newer change", "hóa ra đã gửi được; đã gộp vào một thay đổi mới hơn"),
        ("cancelled by lan/erp: wrong price", "lan/erp đã hủy: wrong price"),
        ("cancelled by lan/erp; perhaps sent before", "lan/erp đã hủy; có thể đã gửi trước đó"),
        (
            "cancelled by lan/erp: wrong price; no stock: sorry; perhaps sent before",
            "lan/erp đã hủy: wrong price; no stock: sorry; có thể đã gửi trước đó",
        ),
        (
            "sent after all; waited past its `expires`; last: to be sent again by lan/erp: wrong price",
            "hóa ra đã gửi được; chờ quá thời hạn `expires`; lần cuối: lan/erp cho gửi lại: wrong price",
        ),
        (
            "ticket 7 was refused before: not asked for again; an earlier request was answered after all; status 500",
            "phiếu 7 đã bị từ chối trước đó nên không dùng lại; một lần gửi trước đó rốt cuộc đã có câu trả lời; "
            "mã trả lời 500",
        ),
        (
            "ticket 7 refused (no; gone): sent without it; refused by the gateway: refused with status 400",
            "phiếu 7 không được nhận (no; gone), gửi không kèm phiếu; CareSoft từ chối: bị từ chối với mã 400",
        ),
        (
            "the row could not be read again (there is no table erp.orders; did you mean orders?)",
            "chưa đọc lại được dòng dữ liệu để xem lại (không có bảng erp.orders; có phải ý bạn là orders?)",
        ),
        (
            'new.items | map: an item is a number and has no "name"',
            'new.items | map: phần tử là số, không có "name"',
        ),
        ("new.total | vnd: NULL is not a number", "new.total | vnd: giá trị trống (NULL) không phải là số"),
        ("the rule is paused: too many", "quy tắc đang tạm dừng: too many"),
        ("the phone is paused: too many", "số này đang tạm dừng: too many"),
        ("status was not new or paid before", "trước đó status không phải là new hoặc paid"),
        (
            "status is not 'a; b' or c now; sum did not change",
            "status bây giờ không phải là 'a; b' hoặc c; sum không thay đổi",
        ),
        ("status of the order", "status of the order"),
        ("refused by the gateway: Số điện thoại sai", "CareSoft từ chối: Số điện thoại sai"),
        ("the gateway's own words", "the gateway's own words"),
        ("", ""),
    ],
)
def test_what_is_kept_and_what_is_joined(english: str, vietnamese: str) -> None:
    assert in_vietnamese(english) == vietnamese


def test_no_translation_loses_or_invents_a_piece() -> None:
    for pattern, english, vietnamese in reasons._KNOWN:
        kept = set(reasons._KEPT.findall(vietnamese))
        assert kept == set(reasons._KEPT.findall(english)), vietnamese
        assert {name for name, _ in kept} == set(pattern.groupindex), vietnamese


@pytest.mark.parametrize(
    ("reason", "english", "vietnamese"),
    [
        ("refused by the gateway: no Lan", "refused by the gateway: …", "CareSoft từ chối: …"),
        ("perhaps sent: the answer broke off", "perhaps sent: the answer broke off",
         "có thể đã gửi: câu trả lời bị đứt giữa chừng"),
        ("sent after all; ticket 7 refused (for Lan): sent without it",
         "sent after all; ticket … refused (…): sent without it",
         "hóa ra đã gửi được; phiếu … không được nhận (…), gửi không kèm phiếu"),
        ("cancelled by lan: Lan owes; perhaps sent before", "cancelled by …: …; perhaps sent before",
         "… đã hủy: …; có thể đã gửi trước đó"),
        ("new.total | vnd: NULL is not a number", "…: NULL is not a number",
         "…: giá trị trống (NULL) không phải là số"),
        ("Lan owes 5", "…", "…"),
        ("Lan: owes 5", "…", "…"),
    ],
)  # fmt: skip
def test_what_is_ours_of_a_reason_is_told_without_values(reason: str, english: str, vietnamese: str) -> None:
    assert reasons.without_values(reason, vietnamese=False) == english
    assert reasons.without_values(reason, vietnamese=True) == vietnamese


@pytest.mark.parametrize(
    "text",
    [
        "{{ new.none | vnd }}",
        "{{ new.text | vnd }}",
        "{{ new.text | date }}",
        "{{ new.number | date }}",
        "{{ new.day | time }}",
        "{{ new.nan | vnd }}",
        "{{ new.number / 0 }}",
        "{{ new.text + 1 }}",
        "{{ new.text > 1 }}",
        "{{ new.list }}",
        "{{ new }}",
        "{{ new.number[:3] }}",
        "{{ new.list[4] }}",
        "{{ new.text | label('status') }}",
        "{{ old.text }}",
        "{{ new.absent }}",
        "{{ new.text * 1000000 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ new.list > 1 }}",
        "{{ new.list | map('vnd', 1, 2, 3) | join }}",
        "{{ new.rows | map(attribute='nam') | join }}",
        "{{ new.number is divisibleby(0) }}",
        "{{ new.none + 1 }}",
        "{% if new.number == 6 %}{% set x = 1 %}{% endif %}{{ x }}",
    ],
)
def test_what_a_text_cannot_work_with(text: str) -> None:
    new = {
        "none": None,
        "text": "abc",
        "number": N(5),
        "nan": N("NaN"),
        "day": "2026-01-01",
        "list": [N(1)],
        "rows": [{"name": "a"}],
    }
    environment = Environment(labels={"status": {"a": "b"}}, zone=ZoneInfo("Asia/Ho_Chi_Minh"))
    with pytest.raises(RenderError) as error:
        environment.compile_text(text).render({"new": Row(new, "new"), "old": None})
    assert VIETNAMESE.search(in_vietnamese(str(error.value)))


@pytest.mark.parametrize("why", ["the row is gone", "status, total changed since"])
def test_a_recheck(why: str) -> None:
    assert in_vietnamese(f"recheck: {why}").startswith("xem lại trước khi gửi: ")


# the commonest slips; the rare ones are told in English on the Vietnamese page too
@pytest.mark.parametrize(
    "slip",
    [
        "account_unknown", "bracket_text", "change_number_quoted", "change_other_column", "colon_without_blank",
        "duplicate_key", "empty_block", "empty_text", "enum_words", "events", "expressions", "indent", "labels",
        "list_at_top", "many_at_once", "missing_colon", "missing_keys", "on_unknown", "second_colon", "tab_indent",
        "text_unknown_filter", "text_unknown_labels", "text_unknown_name", "unclosed_list", "unclosed_quote",
        "unknown_key_nested", "unknown_key_rule", "unknown_key_top", "value_deeper", "yes_no",
    ],
)  # fmt: skip
def test_the_commonest_faults_of_a_rules_file(slip: str) -> None:
    path = Path(__file__).parent / "bad_rules" / f"{slip}.yaml"
    with pytest.raises(RulesError) as error:
        compile_rules(parse(path.read_text(encoding="utf-8"), "rules.yaml"))
    for fault in error.value.faults:
        for words in filter(None, (fault.message, fault.hint)):
            assert VIETNAMESE.search(in_vietnamese(words))


def test_a_phone_that_stands_in_the_row() -> None:
    bad = phones.normalise("024 3825 1234")
    assert isinstance(bad, phones.BadPhone)
    told = in_vietnamese(phones.refusal("024 3825 1234", bad))
    assert told == "đây là số máy bàn, không nhận được SMS; trong dữ liệu ghi 024***234"

"""`why`: every message and every silence of one phone or key in one plain sentence."""

import html
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from listener.simulator.gateway.faults import Answer, Fault
from tests.support.browser import page_of
from tests.support.verbs import Said, verb
from tests.support.world import PHONE, World, open_world

RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 100/s}
watch:
  note:
    table: public.notes
    events: [insert]
    key: topic
    lookup:
      twin: SELECT count(*) AS n FROM public.notes WHERE phone = %(phone)s
rules:
  sent: {on: note, when: new.body == 'sent', to: new.phone, text: "{{ new.body }}"}
  landline: {on: note, when: new.body == 'landline', to: [new.phone, "'024 3825 1234'"], text: "{{ new.body }}"}
  joined: {on: note, when: "new.body.startswith('joined')", to: new.phone, text: "{{ new.body }}", coalesce: {wait: 1h}}
  quiet: {on: note, when: new.body == 'quiet', to: new.phone, text: "{{ new.body }}", quiet_hours: {QUIET}}
  expired: {on: note, when: new.body == 'expired', to: new.phone, text: "{{ new.body }}", expires: 1m}
  capped: {on: note, when: "new.body.startswith('capped')", to: new.phone, text: "{{ new.body }}", cap: 1/d}
  braked: {on: note, when: "new.body.startswith('braked')", to: new.phone, text: "{{ new.body }}", brake: 1/d}
  long: {on: note, when: new.body == 'long', to: new.phone, text: "{{ new.body * 50 }}", max_parts: 1}
  unknown: {on: note, when: new.body == 'unknown', to: new.phone, text: "{{ new.body }}"}
  shadow: {on: note, when: new.body == 'shadow', to: new.phone, text: "{{ new.body }}", mode: shadow}
  twins: {on: note, when: twin.n > 100, to: new.phone, text: twins}
"""
BODIES = ["sent", "joined 1", "joined 2", "quiet", "expired", "capped 1", "capped 2", "braked 1", "braked 2", "long"]
BODIES += ["unknown", "shadow"]


async def why(world: World, *words: str) -> Said:
    return await verb(world.environment(), "why", *words)


@pytest.fixture
def rules() -> str:
    """The rules above; the quiet hours of `quiet` are on now and for two hours more."""
    now = datetime.now(UTC) + timedelta(hours=7)
    begin, end = ((now + timedelta(hours=h)).strftime("%H:00") for h in (-1, 2))
    return RULES.replace("QUIET", f'from: "{begin}", to: "{end}"')


async def test_one_sentence_for_every_message_of_a_phone(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Answer(status=504), content="unknown"))
        await world.notes([("joined" if "joined" in body else body, body) for body in BODIES])
        await world.db.execute(
            "UPDATE listener.outbox SET at = at - interval '1 hour' WHERE new ->> 'body' = 'expired'"
        )
        await world.once()
        await world.db.execute(
            "INSERT INTO listener.suppression (phone, reason, who) VALUES (%s, 'asked us to stop', 'lan/erp')", [PHONE]
        )
        said = await why(world, "+84 980 000 000", "--lang", "en", "-o", "json")
        report = said.json
        vietnamese = (await why(world, PHONE)).out
        revealed = (await why(world, PHONE, "--reveal")).out
    assert (report["phone"], report["cut"]) == ("098***000", False)
    told = {e["sentence"].split(" of the rule ")[1].split(" to ")[0] + ":" + e["state"]: e["sentence"]
            for e in report["timeline"] if e["kind"] == "message"}  # fmt: skip
    sentences = {
        place: text.split(" to 098***000 ")[1] if " to 098***000 " in text else text for place, text in told.items()
    }
    assert sentences.pop("sent:accepted").startswith("was accepted by CareSoft at ")
    assert sentences.pop("quiet:waiting").startswith("waits for the end of the quiet hours and goes at ")
    assert sentences.pop("joined:waiting").startswith("waits until ")
    assert sentences.pop("unknown:unknown").startswith("was perhaps sent, so it is not sent again by itself: ")
    assert sentences.pop("long:rejected") == (
        "was not sent because it cannot go: the text is too long: 2 parts, the rule allows 1."
    )
    for place in ("capped:accepted", "braked:accepted"):
        assert sentences.pop(place).startswith("was accepted")
    assert sentences == {
        "joined:superseded": "was not sent because something newer took its place: joined with a newer change.",
        "expired:expired": "was not sent because it became too old: too old: the change is longer ago than `expires`.",
        "capped:suppressed": "was not sent because it must not be: cap: this phone has had 1/day of this rule.",
        "braked:held": "is held until a person releases it: "
        "brake: the rule made more than 1/day; a person releases it.",
        "shadow:shadow": "was only shown, not sent: mode shadow: shown, not sent.",
    }
    # one message, one sentence; the order is that of time
    times = [e["at"] for e in report["timeline"]]
    assert times == sorted(times)
    kinds = {e["kind"] for e in report["timeline"]}
    assert kinds == {"change", "verdict", "message", "attempt", "suppression"}
    requests = [e["sentence"] for e in report["timeline"] if e["kind"] == "attempt"]
    assert len(requests) == 4
    assert sum("no clear answer was seen" in text for text in requests) == 1
    assert "lan/erp put 098***000 on the suppression list: asked us to stop." in said.out
    assert PHONE not in said.out + vietnamese
    assert PHONE in revealed
    for words in (
        "của quy tắc sent tới 098***000 đã được CareSoft nhận lúc",
        "đang chờ hết giờ yên lặng, sẽ gửi lúc",
        "không gửi vì đã có tin hoặc thay đổi mới hơn: đã gộp vào một thay đổi mới hơn.",
        "không gửi nữa vì đã quá hạn: thay đổi đã cũ hơn thời hạn `expires`.",
        "không được phép gửi: số này đã nhận đủ 1/day tin của quy tắc này.",
        "đang bị giữ, chờ người cho gửi: phanh an toàn: quy tắc tạo hơn 1/day tin; cần người kiểm tra rồi cho gửi.",
        "không gửi được: tin quá dài: 2 phần, quy tắc chỉ cho phép 1.",
        "có thể đã gửi rồi nên không tự gửi lại: có thể đã gửi: ",
        "chỉ để xem, không gửi thật: đang ở chế độ shadow: chỉ hiển thị.",
        "note sent được thêm mới (body: sent; phone: 098***000; topic: sent).",
        "Lần gửi 1 của tin",
        "lan/erp đưa số 098***000 vào danh sách không gửi tin: asked us to stop.",
    ):
        assert words in vietnamese, words
    assert "{" not in vietnamese.replace("{{", "")


async def test_every_silence_of_a_key_is_explained(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        await world.note("t/1", "nothing")
        await world.once()
        said = (await why(world, "t/1", "--lang", "en", "-o", "json")).json
        # the rules of that day explain it, not those of today
        world.use_rules(rules.replace("new.body == 'sent'", "new.body == 'nothing'"))
        await world.once()
        again = (await why(world, "t/1", "--lang", "en", "-o", "json")).json
        vietnamese = (await why(world, "t/1")).out
    assert (said["phone"], said["key"]) == (None, "t/1")
    [change, *verdicts] = said["timeline"]
    assert change["kind"] == "change"
    assert change["sentence"].startswith("note t/1 was added (body: nothing; phone: 098***000; topic: t/1).")
    assert len(verdicts) == 11
    silences = {v["rule"]: v["sentence"] for v in verdicts}
    assert silences["sent"] == "The rule sent sent nothing: `when` is not true: new.body == 'sent'."
    assert silences["twins"] == (
        "The rule twins sent nothing: `when` is not true: twin.n > 100 (what the lookup found then is not kept)."
    )
    assert again == said
    assert "Quy tắc sent không gửi tin: điều kiện `when` không đúng: new.body == 'sent'." in vietnamese
    assert "(dữ liệu lookup lúc đó không được lưu lại)." in vietnamese


async def test_changes_on_their_way_and_muted_ones(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        await world.note("t1", "sent")
        async with world.db.transaction():
            await world.db.execute("SET LOCAL listener.mute = 'import'")
            await world.db.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('t1', 'muted', '0980000000')")
        # that it was kept is no deed of the ERP
        await world.db.execute("ALTER TABLE public.notes RENAME phone TO mobile")
        await world.db.execute("INSERT INTO public.notes (topic, body, mobile) VALUES ('t1', 'lost', '0980000000')")
        english = (await why(world, "t1", "--lang", "en")).out
        vietnamese = (await why(world, "t1")).out
    assert "It waits to be matched with the rules." in english
    for reason in ("import", "a column that rules use is gone"):
        assert f"It was kept apart, so no rule saw it: {reason}." in english
    assert "đang chờ được xét theo các quy tắc." in vietnamese
    for reason in ("import", "một cột mà quy tắc dùng không còn trong bảng"):
        assert f"Thay đổi này được để riêng nên không quy tắc nào được xét: {reason}." in vietnamese


async def test_waiting_for_an_account_and_pauses_by_people(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        environment = world.environment()
        await world.once()
        assert (await verb(environment, "pause", "--account", "main", "--reason", "stock taking")).code == 0
        await world.note("t1", "sent")
        await world.once()
        english = (await why(world, "t1", "--lang", "en")).out
        vietnamese = (await why(world, "t1")).out
        assert (await verb(environment, "resume", "--account", "main")).code == 0
        await world.once()
        after = (await why(world, "t1", "--lang", "en")).out
    assert "waits because the account main is paused until somebody lets it go on: stock taking." in english
    assert "tạm dừng đến khi có người cho chạy lại: stock taking." in vietnamese
    assert "paused the account main: stock taking." in after
    assert "let the account main go on" in after
    assert "was accepted by CareSoft at" in after


async def test_waiting_for_the_ticket_of_an_unanswered_message(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=500), times=1))
        await world.note("t1", "first")
        await world.once()
        await world.note("t1", "second")
        await world.once()
        english = (await why(world, "t1", "--lang", "en")).out
        vietnamese = (await why(world, "t1")).out
    until = r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"
    assert re.search(f"waits, until {until} at most, for the ticket that an unanswered message before it", english)
    assert re.search(f"lâu nhất đến {until}, phiếu mà tin trước chưa rõ kết quả", vietnamese)


async def test_a_failing_request_is_told_with_its_reason(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="Phone is not allowed")))
        await world.note("t1", "sent")
        await world.once()
        english = (await why(world, "t1", "--lang", "en")).out
        vietnamese = (await why(world, "t1")).out
    assert "was not sent because it cannot go: refused by the gateway: Phone is not allowed." in english
    assert "Request 1 of message" in english
    assert "refused by CareSoft with status 400" in english
    assert "không gửi được: CareSoft từ chối: Phone is not allowed." in vietnamese


async def test_nothing_known(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        moved = "this old 11-digit number was replaced in 2018 and may be someone else's now; its new form is 039***678"
        for asked, told in (
            ("0980000000", "nothing is known of this phone or key\n"),
            ("0169 234 5678", f"nothing is known of this phone or key ({moved})\n"),
            ("no such key", "nothing is known of this phone or key\n"),
            ("024 3825 1234", "nothing is known of this phone or key (this is a landline, which cannot receive SMS)\n"),
        ):
            said = await why(world, asked)
            assert (said.code, said.err) == (1, told)


async def test_a_broken_old_version_of_the_rules_is_passed_over(erp_database: str, rules: str) -> None:
    """Rules that this listener no longer reads explain nothing, but what is recorded is told."""
    async with open_world(erp_database, rules=rules) as world:
        await world.note("t1", "sent")
        await world.once()
        await world.db.execute("UPDATE listener.rules SET source = 'version: 0'")
        kinds = [e["kind"] for e in (await why(world, "t1", "-o", "json")).json["timeline"]]
    assert kinds == ["change", "message", "attempt"]


async def test_what_the_rules_say_stands_beside_its_change(erp_database: str, rules: str) -> None:
    async with open_world(erp_database, rules=rules) as world:
        await world.note("order 1", "nothing")
        await world.note("order 1", "sent")
        await world.once()
        entries = (await why(world, "order 1", "-o", "json")).json["timeline"]
    changes = [entry["change_id"] for entry in entries if entry["kind"] in ("change", "verdict")]
    assert changes == sorted(changes)
    assert len(set(changes)) == 2


ORDER_RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 100/s}
labels: {towns: {HN: Hà Nội}}
watch:
  parcel: {table: public.parcels, key: id, columns: [st, tags, extra, paid]}
rules:
  sent:
    on: parcel
    change: {st: {from: [mới, 'x or now'], to: [gửi, xong]}}
    to: "'0980000000'"
    text: "{{ new.id }} {{ new.tags[0] }} {{ new.extra.n }} {{ new.paid }}"
  labelled: {on: parcel, change: {st: {to: hủy}}, to: "'0980000000'", text: "{{ new.tags[0] | label('towns') }}"}
"""
PARCELS = """
CREATE TABLE public.parcels (id text PRIMARY KEY, st text, tags text[], extra jsonb, paid boolean);
INSERT INTO public.parcels VALUES ('P1', 'mới', '{}', NULL, NULL), ('0980000035', 'mới', '{"x 0980000035"}', '{}', NULL)
"""
EXTRA = (
    '{"n": 1.50, "sdt": "gọi\\n098 000 0035", "0980000035": [["+84980000035", 7, null], {"ai": "Ướt"}], '
    '"by": "(098) 000.0035"}'
)


async def test_what_stands_in_arrays_and_jsonb_is_shown_as_json_without_phones(erp_database: str) -> None:
    """In the sentences, in JSON and on the page: only `--reveal` shows them whole."""
    async with open_world(erp_database, rules=ORDER_RULES, schema=PARCELS) as world, page_of(world) as somebody:
        await world.db.execute(
            "UPDATE public.parcels SET tags = '{0980000035,NULL}', extra = %s, paid = true WHERE id = 'P1'", [EXTRA]
        )
        await world.settled()
        said = await why(world, "P1", "-o", "json")
        lines = (await why(world, "P1")).out
        revealed = await why(world, "P1", "--reveal", "-o", "json")
        page = html.unescape((await somebody.get("/story?q=P1")).text)
    [change] = [e for e in said.json["timeline"] if e["kind"] == "change"]
    within = [["849***035", 7, None], {"ai": "Ướt"}]
    shown = {"n": 1.5, "sdt": "gọi\n098***035", "098***035": within, "by": "098***035"}
    differences = {column: after for column, _, after in change["differences"]}
    assert {c: v for c, v in differences.items() if c != "id"} == {
        "tags": ["098***035", None], "extra": shown, "paid": True,
    }  # fmt: skip
    for text in (change["sentence"], lines, page):
        assert 'tags: [] → ["098***035", null]; extra: null → {' in text
        assert "paid: null → true" in text
    assert '"n": 1.50' in lines
    for text in (said.out, lines, page):
        assert "0035" not in text
        assert "Decimal" not in text
        assert "\\u" not in text
    [whole] = [e for e in revealed.json["timeline"] if e["kind"] == "change"]
    assert {column: after for column, _, after in whole["differences"]}["extra"] == json.loads(EXTRA)


async def test_jsonb_of_any_depth_is_shown(erp_database: str) -> None:
    async with open_world(erp_database, rules=ORDER_RULES, schema=PARCELS) as world:
        deep = "[" * 800 + '"0980000035"' + "]" * 800
        await world.db.execute("UPDATE public.parcels SET extra = %s WHERE id = 'P1'", [deep])
        said = await why(world, "P1")
    assert said.code == 0, said.err
    assert f"extra: null → {'[' * 57}..." in said.out


async def test_no_reason_key_or_thread_shows_a_phone(erp_database: str) -> None:
    async with open_world(erp_database, rules=ORDER_RULES, schema=PARCELS) as world:
        await world.db.execute("UPDATE public.parcels SET st = 'hủy' WHERE id = '0980000035'")
        await world.once()
        said = await why(world, "0980000035", "-o", "json")
        replayed = (await verb(world.environment(), "replay", "-o", "json")).out
    [message] = [e for e in said.json["timeline"] if e["kind"] == "message"]
    assert (message["thread"], message["state"]) == ("parcel:098***035", "rejected")
    assert message["reason"] == 'a value | label: labels "towns" have no word for "x 098***035"'
    for text in (said.out, replayed):
        assert 'have no word for \\"x 098***035\\"' in text
        assert "0980000035" not in text


async def test_a_message_whose_text_cannot_be_worked_out_says_nothing_of_its_number(erp_database: str) -> None:
    """The rule's number is a good one, and was never looked at."""
    async with open_world(erp_database, rules=ORDER_RULES, schema=PARCELS) as world:
        await world.db.execute("UPDATE public.parcels SET st = 'gửi' WHERE id = 'P1'")
        await world.once()
        vietnamese = (await why(world, "P1")).out
    assert "của quy tắc sent tới (chưa rõ số) không gửi được: new.tags chỉ có 0 phần tử." in vietnamese, vietnamese


async def test_the_values_of_a_condition_are_joined_in_the_language_of_the_sentence(erp_database: str) -> None:
    async with open_world(erp_database, rules=ORDER_RULES, schema=PARCELS) as world:
        await world.db.execute("UPDATE public.parcels SET st = 'hoàn' WHERE id = 'P1'")
        await world.once()
        await world.db.execute("UPDATE public.parcels SET st = 'gửi' WHERE id = 'P1'")
        await world.once()
        vietnamese = (await why(world, "P1")).out
        english = (await why(world, "P1", "--lang", "en")).out
    assert "Quy tắc sent không gửi tin: st bây giờ không phải là gửi hoặc xong." in vietnamese
    assert "Quy tắc sent không gửi tin: trước đó st không phải là mới hoặc " in vietnamese
    assert "The rule sent sent nothing: st is not gửi or xong now." in english

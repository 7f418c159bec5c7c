"""The recipes on the sample ERP: from a statement of the ERP to the SMS."""

import json
import re
import shlex
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from click.testing import CliRunner

from listener.cli import main
from listener.rules import build, load
from tests.support.recipes import together
from tests.support.world import open_world

GUIDE = (Path(__file__).parents[2] / "GUIDE.md").read_text(encoding="utf-8")
MOMENT = datetime.now(ZoneInfo("Asia/Ho_Chi_Minh")) - timedelta(minutes=5)
TODAY = MOMENT.date()
# the table that the sample ERP does not have, as the recipe describes it
SHIPMENTS = """
CREATE TABLE public.shipments (shipment_no text PRIMARY KEY, order_no text, customer_id bigint, status text,
                               cod_amount numeric, fail_reason text);
INSERT INTO public.shipments VALUES ('S1', 'DH1008', 7, 'delivering', 5400000, NULL);
"""
BUSINESS = f"""
UPDATE public.accounts SET balance = 90000 WHERE account_no = 'A1';
UPDATE public.accounts SET balance = balance + 500000 WHERE account_no = 'A3';
UPDATE public.orders SET status = 'confirmed' WHERE order_no IN ('DH1001', 'DH1002');
UPDATE public.orders SET status = 'shipped' WHERE order_no = 'DH1001';
UPDATE public.orders SET status = 'delivered' WHERE order_no = 'DH1014';
UPDATE public.orders SET status = 'cancelled' WHERE order_no = 'DH1008';
UPDATE public.shipments SET status = 'failed', fail_reason = 'no_answer';
INSERT INTO public.orders (order_no, customer_id, total) VALUES ('DH2000', 7, 450000);
UPDATE public.orders SET payment_due = '{TODAY + timedelta(days=3)}' WHERE order_no = 'DH1005';
UPDATE public.customers SET birthday = CASE WHEN id = 7 THEN date '{TODAY.replace(year=1984)}' END;
-- as if the last run of the watches by date had been the day before
UPDATE listener.calendar SET last_day = last_day - 1
"""
SENT = [
    "ACME: Chuc mung sinh nhat Quy khach Dang Thi Uot. Chuc Quy khach nhieu suc khoe va hanh phuc!",
    "ACME: Da nhan don DH2000, tong 450.000 VND. LH 19001234",
    "ACME: Don DH1001 dang duoc giao. Quy khach vui long de y dien thoai. LH 19001234",
    "ACME: Don DH1002 tri gia 1.290.000 VND da duoc xac nhan. LH 19001234",
    f"ACME: Don DH1005 con 720.000 VND, han thanh toan {TODAY + timedelta(days=3):%d/%m/%Y}. "
    "Neu da thanh toan, xin bo qua tin nay. LH 19001234",
    "ACME: Don DH1008 (thu ho 5.400.000 VND) giao chua thanh cong luc NOW, ly do: khong lien lac duoc. LH 19001234",
    "ACME: Don DH1008 da huy luc NOW. Neu Quy khach khong yeu cau huy, xin goi 19001234",
    "ACME: Don DH1014 da giao luc NOW. Neu Quy khach chua nhan duoc hang, xin goi 19001234",
    "ACME: Don DH2000 doi tu 450.000 VND thanh 500.000 VND. LH 19001234",
    "ACME: TK A1 con 90.000 VND luc NOW. LH 19001234",
    "ACME: TK A3 +500.000 VND luc NOW. So du 620.000 VND. LH 19001234",
]


def rules() -> str:
    """All recipes, whatever the hour: nothing waits, and what runs once a day became due five minutes ago."""
    whole = together()
    whole["accounts"] = {"main": {"domain": "acme", "token_file": "TOKEN_FILE", "service_id": 12, "rate": "500/s"}}
    del whole["defaults"]["quiet_hours"], whole["rules"]["low_balance"]["coalesce"]
    for watch in ("birthday", "payment_due"):
        whole["watch"][watch]["every"] = f"{MOMENT:%H:%M}"
    return json.dumps(whole)


async def test_the_recipes_tell_what_happens_in_the_sample_erp(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules(), schema=SHIPMENTS) as world:
        # The first look of a watch by date only begins its calendar.
        await world.once()
        assert world.arrived() == []
        await world.db.execute(BUSINESS.encode(), prepare=False)
        async with world.service():
            # `save` writes the ticket back, and that is no change of its own.
            await world.until("SELECT ticket_id IS NOT NULL FROM public.orders WHERE order_no = 'DH2000'")
            await world.db.execute("UPDATE public.orders SET total = 500000 WHERE order_no = 'DH2000'")
            await world.until("SELECT count(*) = %s FROM listener.finished WHERE state = 'accepted'", len(SENT))
            await world.settled()
        arrived = [re.sub(r"luc (?:\d\d/\d\d/\d{4} )?\d\d:\d\d", "luc NOW", text) for text in world.arrived()]
        assert sorted(arrived) == SENT
        others = await world.rows("SELECT rule, key, state FROM listener.finished WHERE state <> 'accepted'")
        assert others == [{"rule": "order_confirmed", "key": "DH1001", "state": "superseded"}]
        tickets = await world.rows("SELECT DISTINCT ticket_id FROM listener.finished WHERE key = 'DH2000'")
        assert tickets == await world.rows("SELECT ticket_id FROM public.orders WHERE order_no = 'DH2000'")


@pytest.mark.parametrize("command", sorted(set(re.findall(r"listener (preview [^`#\n]+)", GUIDE))))
def test_the_previews_of_the_guide_show_a_message(erp_database: str, tmp_path: Path, command: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rules(), encoding="utf-8")
    args = shlex.split(re.sub(r"--rules \S+", "", command))
    env = {"LISTENER_DATABASE_URL": erp_database, "LISTENER_RULES": str(path)}
    said = CliRunner().invoke(main, [*args, "-o", "json"], env=env)
    assert json.loads(said.stdout)["verdict"] == "send"


@pytest.mark.parametrize(
    ("day", "wished"),
    [
        (date(2026, 2, 28), ["Nguyễn Văn Ửng"]),
        (date(2026, 3, 1), []),
        (date(2028, 2, 28), []),
        (date(2028, 2, 29), ["Nguyễn Văn Ửng"]),
        (date(2026, 11, 22), ["Trần Thị Bích Ngọc"]),
    ],
)
def test_who_was_born_on_29_february_is_wished_every_year(erp_database: str, day: date, wished: list[str]) -> None:
    select = build(load(rules(), "rules.yaml")).watch["birthday"].select
    assert select is not None
    with psycopg.connect(erp_database) as conn:
        assert [row[1] for row in conn.execute(select.encode(), {"day": day})] == wished

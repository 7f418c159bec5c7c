"""The ticket of each SMS: the ERP's own, the thread's, a new one; and its way back into the ERP."""

from listener.simulator.gateway import Answer, Break, Fault, GatewaySettings, Moment, UnknownTicket
from tests.support.verbs import verb
from tests.support.world import World, open_world, rules_text

FIRST = 1_000_001
OWN = 9_410_022


def sent_and_given(world: World) -> list[tuple[int | None, int]]:
    return [(entry.ticket_id_sent, entry.ticket_id) for entry in world.gateway.state.ledger]


def known_ticket(world: World) -> int:
    """A ticket that the service desk has already."""
    contact = world.gateway.state.add_contact("0912345678")
    return world.gateway.state.add_ticket(subject="order", requester_id=contact.id, source="api").ticket_id


async def test_the_erps_own_ticket_then_the_threads_then_a_new_one(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        own = known_ticket(world)
        await world.note("order 1", "own", ticket=own)
        await world.note("order 1", "remembered")
        await world.note("order 2", "new")
        await world.note("order 2", "the new one")
        async with world.service():
            await world.settled()
        by_text = {e.content: (e.ticket_id_sent, e.ticket_id) for e in world.gateway.state.ledger}
        new = own + 1
        assert by_text == {"own": (own, own), "remembered": (own, own), "new": (None, new), "the new one": (new, new)}
        rows = await world.rows("SELECT thread, ticket_id FROM listener.tickets ORDER BY thread")
        assert {row["ticket_id"] for row in rows} == {own, new}


async def test_another_ticket_than_the_one_asked_for_is_kept_and_told(erp_database: str) -> None:
    settings = GatewaySettings(per_second=None, per_hour=None, unknown_ticket=UnknownTicket.NEW)
    async with open_world(erp_database, gateway=settings) as world:
        await world.note("order", "first", ticket=OWN)
        await world.note("order", "second")
        async with world.service():
            await world.settled()
        assert sent_and_given(world) == [(OWN, FIRST), (FIRST, FIRST)]
        row = await world.one(
            "SELECT ticket_own, ticket_sent, ticket_id, reason FROM listener.finished WHERE text = 'first'"
        )
        assert (row["ticket_own"], row["ticket_sent"], row["ticket_id"]) == (OWN, OWN, FIRST)
        assert row["reason"] == f"the gateway used ticket {FIRST} instead of {OWN}"


async def test_refused_for_its_ticket_it_goes_once_more_without_and_says_so(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        for n in range(3):
            await world.note("order", f"text {n}", ticket=OWN)
        async with world.service():
            await world.settled()
        # The first is refused and goes without; nobody asks for that ticket again.
        assert sent_and_given(world) == [(None, FIRST), (FIRST, FIRST), (FIRST, FIRST)]
        assert world.gateway.state.counters().statuses == {400: 1, 200: 3}
        rows = await world.messages()
        assert [row["state"] for row in rows] == ["accepted"] * 3
        assert rows[0]["reason"] == f"ticket {OWN} refused (Ticket not found): sent without it"
        assert rows[0]["attempts"] == 2
        assert {row["reason"] for row in rows[1:]} == {f"ticket {OWN} was refused before: not asked for again"}


async def test_a_remembered_ticket_that_is_gone_is_replaced(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("order", "first")
        async with world.service():
            await world.settled()
            world.gateway.state.tickets.clear()
            world.gateway.change(first_ticket_id=2_000_001)
            await world.note("order", "second")
            await world.settled()
            await world.note("order", "third")
            await world.settled()
        assert sent_and_given(world) == [(None, FIRST), (None, 2_000_001), (2_000_001, 2_000_001)]


async def test_a_refusal_that_speaks_of_tickets_is_final_when_none_was_sent(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="ticket quota exceeded")))
        await world.note("order", "text")
        async with world.service():
            await world.settled()
        assert await world.states() == {"text": "rejected"}
        assert len(world.gateway.state.requests) == 1


async def test_followers_wait_for_the_ticket_an_unanswered_message_may_have_made(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=0.5) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="head"))
        await world.note("order", "head")
        await world.note("order", "follower")
        await world.note("order", "last")
        await world.note("other", "other thread")
        async with world.service():
            await world.until("SELECT state = 'unknown' FROM listener.message WHERE text = 'head'")
            await world.gateway.wait_for(2)
            waits = await world.one(
                "SELECT extract(epoch FROM next_at - now())::float8 AS s FROM listener.thread WHERE next_at IS NOT NULL"
            )
            assert 280 < waits["s"] < 301
            assert "follower" not in world.arrived()
            await world.db.execute(
                "UPDATE listener.thread SET ticket_wait_until = now(), next_at = now() WHERE next_at IS NOT NULL"
            )
            await world.settled()
        by_text = {e.content: (e.ticket_id_sent, e.ticket_id) for e in world.gateway.state.ledger}
        assert by_text["follower"][0] is None
        assert by_text["last"] == (by_text["follower"][1],) * 2
        rows = {row["text"]: row for row in await world.messages()}
        assert rows["follower"]["reason"] == "without a ticket: the message that may have made one was not answered"
        assert rows["last"]["reason"] is None


async def test_followers_do_not_wait_when_they_have_a_ticket(erp_database: str) -> None:
    async with open_world(erp_database, http_timeout=0.5) as world:
        own = known_ticket(world)
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="unclear"))
        await world.note("order", "first")
        await world.note("order", "unclear")
        await world.note("order", "third")
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="head of two"))
        await world.note("order 2", "head of two")
        await world.note("order 2", "has its own", ticket=own)
        async with world.service():
            await world.settled(5)
        assert set(world.arrived()) == {"first", "unclear", "third", "head of two", "has its own"}


SAVE = '{save: "UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE id = %(id)s"}'


async def test_a_run_once_writes_the_ticket_back_before_it_ends(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(ticket=SAVE)) as world:
        await world.note("order", "text")
        await world.once()
        assert (await world.one("SELECT saved_ticket FROM public.notes"))["saved_ticket"] == FIRST


async def test_the_ticket_is_written_back_without_triggering_rules(erp_database: str) -> None:
    rules = rules_text(ticket=SAVE).replace("events: [insert]", "events: [insert, update], columns: [saved_ticket]")
    async with open_world(erp_database, rules=rules) as world:
        await world.note("order", "text")
        async with world.service():
            await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
            await world.until("SELECT count(*) = 0 FROM listener.ticket_save")
            await world.settled()
        assert (await world.one("SELECT saved_ticket FROM public.notes"))["saved_ticket"] == FIRST
        assert await world.rows("SELECT op, reason FROM listener.muted") == [{"op": "update", "reason": "ticket.save"}]
        assert world.arrived() == ["text"]


async def test_writing_back_is_tried_again_when_it_fails(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(ticket=SAVE)) as world:
        await world.db.execute("ALTER TABLE public.notes RENAME COLUMN saved_ticket TO elsewhere")
        await world.note("order", "text")
        async with world.service():
            await world.until("SELECT tries >= 1 AND error = 'UndefinedColumn' FROM listener.ticket_save")
            assert world.arrived() == ["text"]
            told = (await verb(world.environment(), "status")).out
            assert "NOT SAVED         1 ticket of the rule note, tried again: UndefinedColumn" in told
            await world.db.execute("ALTER TABLE public.notes RENAME COLUMN elsewhere TO saved_ticket")
            await world.db.execute("UPDATE listener.ticket_save SET due_at = now()")
            await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
            await world.until("SELECT count(*) = 0 FROM listener.ticket_save")
        assert world.arrived() == ["text"]


async def test_what_the_erp_checks_only_at_its_commit_is_one_tickets_failure(erp_database: str) -> None:
    """And no end of the daemon, over and over."""
    async with open_world(erp_database, rules=rules_text(ticket=SAVE)) as world:
        await world.db.execute("CREATE TABLE public.known_tickets (id bigint PRIMARY KEY)")
        await world.db.execute("""ALTER TABLE public.notes
                                    ADD FOREIGN KEY (saved_ticket) REFERENCES public.known_tickets
                                    DEFERRABLE INITIALLY DEFERRED""")
        await world.note("order", "text")
        async with world.service():
            await world.until("SELECT tries >= 1 AND error = 'ForeignKeyViolation' FROM listener.ticket_save")
            await world.db.execute("INSERT INTO public.known_tickets SELECT ticket_id FROM listener.ticket_save")
            await world.db.execute("UPDATE listener.ticket_save SET due_at = now()")
            await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
        assert world.arrived() == ["text"]


async def test_a_ticket_whose_rule_says_no_longer_how_is_kept_until_it_does(
    erp_database: str,
) -> None:
    async with open_world(erp_database, rules=rules_text(ticket=SAVE)) as world:
        await world.note("order", "text")
        await world.db.execute("ALTER TABLE public.notes RENAME COLUMN saved_ticket TO elsewhere")
        async with world.service():
            await world.until("SELECT tries >= 1 FROM listener.ticket_save")
        await world.db.execute("ALTER TABLE public.notes RENAME COLUMN elsewhere TO saved_ticket")
        for rules, saved in ((rules_text(ticket="none"), False), (rules_text(ticket=SAVE), True)):
            world.use_rules(rules)
            # Also after a weekend.
            await world.db.execute("UPDATE listener.ticket_save SET due_at = now(), tries = 60, error = NULL")
            async with world.service():
                if saved:
                    await world.until("SELECT count(*) = 0 FROM listener.ticket_save")
                else:
                    await world.until("SELECT error LIKE '%%no such rule%%' FROM listener.ticket_save")
                    again = "SELECT due_at < now() + interval '61 min' AS again FROM listener.ticket_save"
                    assert await world.one(again) == {"again": True}
                    # Nobody who took it out of the rules is to mend anything.
                    assert "NOT SAVED" not in (await verb(world.environment(), "status")).out
        assert (await world.one("SELECT saved_ticket FROM public.notes"))["saved_ticket"] == FIRST


async def test_a_locked_row_of_the_erp_does_not_hold_up_the_rest(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(ticket=SAVE)) as world:
        await world.notes([("order 1", "locked"), ("order 2", "free")])
        async with world.db.transaction():
            await world.db.execute("SELECT FROM public.notes WHERE body = 'locked' FOR UPDATE")
            async with world.service():
                await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes WHERE body = 'free'")
                await world.until("SELECT tries >= 1 FROM listener.ticket_save")

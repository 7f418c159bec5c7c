"""A stock of items whose amounts are told, for tests of the words that a rule may have."""

from decimal import Decimal

from tests.support.world import World

SCHEMA = """
CREATE TABLE public.stock (item text PRIMARY KEY, amount numeric NOT NULL, note text, phone text DEFAULT '0980000000')
"""
RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 500/s}
watch:
  stock: {table: public.stock, columns: [amount, note], events: [insert, update]}
rules:
"""


def rule(body: str, name: str = "told") -> str:
    """A rule that tells the amount, with more keys."""
    return f"""
  {name}:
    on: stock
    to: new.phone
    text: "{name} {{{{ key }}}} {{{{ new.amount }}}}"
    {body}
"""


async def set_amount(world: World, item: str, amount: int | Decimal) -> None:
    await world.db.execute(
        """INSERT INTO public.stock (item, amount) VALUES (%s, %s)
           ON CONFLICT (item) DO UPDATE SET amount = excluded.amount""",
        [item, amount],
    )


async def reasons(world: World) -> dict[str, list[str]]:
    """Reasons by state."""
    found: dict[str, list[str]] = {}
    for row in await world.messages():
        found.setdefault(row["state"], []).append(row["reason"] or "")
    return found

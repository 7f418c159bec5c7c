"""F71, F72: what data and rules may try with the language of texts, through a real daemon. Names and SQL are in
test_security_names.py; rights, TLS and poolers beside it; the page in tests/integration/test_web_*.py."""

from tests.support.verbs import verb
from tests.support.world import open_world, rules_text

# F71: what a customer may be called
NAMES = (
    "{{7*7}}",
    "{{config}}",
    "{0.__class__}",
    "%(x)s",
    "${x}",
    "#{x}",
    "`id`",
    "{% for i in range(9) %}x{% endfor %}",
)

# F72: what a rule's text may try
TEXTS = (
    "{{ new.__class__ }}",
    "{{ new.body.__class__.__mro__ }}",
    "{{ new | attr('__class__') }}",
    "{{ '{0.__class__}'.format(new) }}",
    "{{ '{a}'.format_map(new) }}",
    "{{ range(10 * 100000000) | list }}",
    "{% for i in range(5000) %}{% for j in range(5000) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 100000000 }}",
    "{% include 'rules.yaml' %}",
    "{% import 'os' as os %}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}",
)


async def test_f71_data_is_never_a_template(erp_database: str) -> None:
    """F71: 8 of 8 arrive as they are written; `accents: keep` changes no letter."""
    rules = rules_text(defaults="accents: keep")
    async with open_world(erp_database, rules=rules) as world, world.service():
        for n, name in enumerate(NAMES):
            await world.note(f"{name} {n}", f"{name} {n}")
        await world.settled()
        cleaned = [f"{name} {n}".replace("`", "'") for n, name in enumerate(NAMES)]
        assert sorted(world.arrived()) == sorted(cleaned)


async def test_f72_a_text_has_no_way_out_and_no_way_to_hold_things_up(erp_database: str) -> None:
    """F72: 12 of 12 are refused with their place before anything is made of them; what is in force goes on. (What only
    a row makes run away is cut off: test_templates.py.)"""
    async with open_world(erp_database) as world, world.service():
        for text in TEXTS:
            more = f"  bad:\n    on: note\n    to: new.phone\n    text: >-\n      {text}\n"
            world.use_rules(rules_text() + more)
            said = await verb(world.environment(), "check")
            assert said.code == 1, text
            assert "rules.yaml:21:11: " in said.out, text
        await world.until("SELECT faults <> '[]' FROM listener.fleet")
        await world.note("a", "beside it")
        await world.settled()
        assert world.arrived() == ["beside it"]

"""Expressions and texts of `rules.yaml`: compile once, check what can be checked then, render strictly.

One language for both: Jinja2's, in its immutable sandbox, narrowed to `if`, `for`, `set`, operators, the filters and
tests of `listener.filters`, and columns. Every operation that could fail, grow or reach out is rewritten in the syntax
tree to a function of `listener.operators`, so a compiled template contains no call but to those. What stands in the
data is never looked at as a template.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NoReturn, TypeVar
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.lexer import Token
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from listener.errors import RenderError
from listener.filters import Filters
from listener.operators import operators
from listener.sandbox import Missing, Row, Run, joined
from listener.syntax import TemplateError, check, lower, names_used
from listener.text import UNCLEAR_DOT, WITHOUT_DOT, has_unclear_dot

__all__ = ["Environment", "Expression", "Missing", "Row", "TemplateError", "Text"]

MAX_SOURCE = 4_000
"""Characters in the source of one text or expression."""
_RESULT = "result"
_WAYS: Any = (nodes.If, nodes.For, nodes.CondExpr, nodes.And, nodes.Or)


class Text:
    """A compiled text; `names` are those it uses from outside, `("new", "balance")` or, used whole, `("at",)`.

    `always` is what stands in it whatever the values are; with `one_way` it has no other pieces but the values.
    """

    __slots__ = ("_template", "always", "names", "one_way")

    def __init__(self, template: Template, names: frozenset[tuple[str, ...]], *, always: str, one_way: bool) -> None:
        self._template = template
        self.names = names
        self.always = always
        self.one_way = one_way

    def render(self, names: Mapping[str, object]) -> str:
        """The text for these values: `Row` and `Missing` for old, new and lookups, plain values for op, at and key.

        Raises RenderError, whatever the text or the values do.
        """
        return _run(self._template, names, lambda run: joined(self._template.root_render_func(run)))


class Expression:
    """A compiled expression; `names` as for a text."""

    __slots__ = ("_template", "names")

    def __init__(self, template: Template, names: frozenset[tuple[str, ...]]) -> None:
        self._template = template
        self.names = names

    def evaluate(self, names: Mapping[str, object]) -> object:
        """The value for these names: None, bool, int, Decimal, str, a date or time, a list, a Row or Missing.

        Raises RenderError, whatever the expression or the values do.
        """
        return _run(self._template, names, self._result)

    def _result(self, run: Run) -> object:
        for _ in self._template.root_render_func(run):
            pass
        value: object = run.vars[_RESULT]
        if isinstance(value, StrictUndefined):
            str(value)  # raises its own words
        return value


_T = TypeVar("_T")


def _run(template: Template, names: Mapping[str, object], work: Callable[[Run], _T]) -> _T:
    # As `Template.new_context` makes it, which spends most of its time on globals and blocks: there are none.
    run = Run(template.environment, dict(names), template.name, {})
    try:
        return work(run)
    except RenderError:
        raise
    except UndefinedError as error:
        raise RenderError(str(error)) from None
    except Exception as error:
        # One change's odd value must never stop the next change, so whatever Python raises is this change's reason.
        # Only its kind is told: its words may quote the value.
        raise RenderError(f"the template cannot be worked out ({type(error).__name__})") from error


class Environment:
    """Compiles the texts and expressions of one rules file; dates are shown on the clocks of `zone`."""

    def __init__(self, labels: Mapping[str, Mapping[str, str]], zone: ZoneInfo) -> None:
        self._labels = labels
        self._filters = Filters(labels, zone)
        self._jinja = _Jinja({**operators(zone), **self._filters.operators()})

    def compile_text(self, source: str) -> Text:
        """Raises TemplateError."""
        template, tree = self._compiled(source, self._jinja.parse, state=None, otherwise="")
        outputs = (node for node in tree.body if isinstance(node, nodes.Output))
        pieces = (piece.data for output in outputs for piece in output.nodes if isinstance(piece, nodes.TemplateData))
        return Text(template, names_used(tree), always="".join(pieces), one_way=tree.find(_WAYS) is None)

    def compile_expression(self, source: str) -> Expression:
        """Raises TemplateError."""
        template, tree = self._compiled(source, self._parsed_expression, state="variable", otherwise=None)
        return Expression(template, names_used(tree))

    def _parsed_expression(self, source: str) -> nodes.Template:
        if "{{" in source:
            raise TemplateError("{{ }} has no place in an expression", line=1, hint="write it without the braces")
        parser = Parser(self._jinja, source, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            rest = parser.stream.current
            hint = _before(rest, expression)
            raise TemplateError("an expression ends here, but more follows", line=rest.lineno, hint=hint)
        target = nodes.Name(_RESULT, "store", lineno=1)
        return nodes.Template([nodes.Assign(target, expression, lineno=1)], lineno=1)

    def _compiled(
        self, source: str, parse: Callable[[str], nodes.Template], *, state: str | None, otherwise: str | None
    ) -> tuple[Template, nodes.Template]:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"longer than {MAX_SOURCE:,} characters", line=1, hint="shorten it")
        try:
            tree = parse(source)
            for line, token, digits in self._jinja.lexer.tokeniter(source, None, state=state):
                if token != "float":  # noqa: S105
                    continue
                written = Decimal(digits.replace("_", ""))
                if written != Decimal(repr(float(digits))):
                    hint = "15 digits are kept"
                    raise TemplateError(f"the number {digits[:40]} has too many digits", line=line, hint=hint)
                if has_unclear_dot(written):
                    raise TemplateError(f"{digits}: {UNCLEAR_DOT}", line=line, hint=WITHOUT_DOT)
            check(tree, self._filters, self._labels)
            lowered = lower(tree, otherwise)
            lowered.set_environment(self._jinja)
            return self._jinja.from_string(lowered), tree
        except TemplateError:
            raise
        except TemplateSyntaxError as error:
            message, hint = _in_plain_words(error.message or "")
            raise TemplateError(message, line=error.lineno, hint=hint) from None
        except (RecursionError, MemoryError, SyntaxError, ValueError, ArithmeticError):
            raise TemplateError("nested too deeply, or a number too large", line=1, hint="make it simpler") from None


# pieces of what Jinja says, what is said instead, and how to mend it; `{}` is the thing that it met
_COMPLAINTS = (
    ("needs to be closed", "a {{% {} %}} is not closed", "write {{% end{} %}} where it ends"),
    ("unknown tag", "{{% {} %}} cannot stand here", "a text may use if, elif, else, endif, for, endfor and set"),
    ("unexpected 'end of template'", "something is missing at the end", "finish it, or remove its last word or sign"),
    ("unexpected 'end of ", "something is missing before the closing brace", "finish it, or remove the last sign"),
    ("an expression, got", "something is missing before the closing brace", "write a value or a condition there"),
    ("expected 'end of print statement'", "a {{{{ is not closed", "write }}}} where the value ends"),
    ("expected 'end of statement block'", "a {{% is not closed", "write %}} where it ends"),
    ("end of comment tag", "a {{# is not closed", "write #}} where the comment ends"),
    ("unexpected end of template", "something is missing at the end", "finish it, or remove its last word or sign"),
    ("'end of print statement', got", "the value ends before {}", "put | or ~ or another operator between"),
    (
        "'end of statement block', got",
        "the statement ends before {}",
        "write {{% if new.total == 5 %}}, {{% elif new.total == 6 %}}",
    ),
    ("expected name or number", "a name is missing behind the dot", "write new.name"),
    ("expected token 'name'", "a name is missing here", "write it behind the | or the for; for || write or"),
    ('unexpected char "\'"', "a quote is opened here and not closed", "close it"),
    ("unexpected char", "{} cannot stand here", "write and, or, not for && || !; put text in 'quotes'"),
    ("expected", "{} cannot stand here", "look for a bracket, a quote or a sign too many or too few"),
)
_MET = re.compile(
    r"(?:needs to be closed is|unknown tag|unexpected char|unexpected|got) ('[^']*'|\S+?)(?= at \d+|[.,]|$)"
)


def _before(rest: Token, expression: nodes.Expr) -> str:
    """The cure for an `expression` that ends before `rest`."""
    match rest.type, str(rest.value).lower():
        case "assign", _:
            return "write == to compare"
        # 0912345678 is a 0 and a number to Jinja
        case "integer", _ if isinstance(expression, nodes.Const):
            return """a phone is text, in 'quotes' of its own: "'0980000000'\""""
        case "name", "and" | "or" | "not" | "is" | "in" as word:
            return f"write {word} in small letters"
    return "put text in 'quotes', or and, or, ~ between"


def _in_plain_words(complaint: str) -> tuple[str, str]:
    """What Jinja's parser says as a person would say it, and the cure."""
    if "unknown tag" in complaint and "unknown tag 'end" not in complaint:
        # Jinja goes on about the block that is open, but an `elseif` is no unclosed `if`.
        complaint = complaint.partition(".")[0]
    met = _MET.findall(complaint)
    thing = met[-1].strip("'") if met else "this"
    for piece, message, hint in _COMPLAINTS:
        if piece in complaint:
            return message.format(thing), hint.format(thing)
    return complaint or "it cannot be read", "compare it with the recipes in GUIDE.md"


class _Jinja(ImmutableSandboxedEnvironment):
    """Jinja with nothing in it but our operators; its own ways to an attribute or a call are walled up."""

    context_class = Run
    concat = staticmethod(joined)

    def __init__(self, functions: Mapping[str, Callable[..., object]]) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, cache_size=0, auto_reload=False)
        self.globals.clear()
        self.tests.clear()
        self.filters.clear()
        self.filters.update(functions)

    def getattr(self, *_: object) -> NoReturn:
        raise SecurityError("a template reaches attributes by its operators alone")

    def getitem(self, *_: object) -> NoReturn:
        raise SecurityError("a template reaches items by its operators alone")

    def call(self, *_: object, **__: object) -> NoReturn:
        raise SecurityError("a template calls its operators alone")

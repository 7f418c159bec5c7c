"""Expressions and texts of `rules.yaml`: compile once, check what can be checked then, render strictly.

One language for both: Jinja2's, in its immutable sandbox, narrowed to `if`, `for`, `set`, operators, the filters and
tests of `listener.filters`, and columns. Every operation that could fail, grow or reach out is rewritten in the syntax
tree to a function of `listener.sandbox`, so a compiled template contains no call but to those. What stands in the data
is never looked at as a template.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NoReturn, TypeVar, cast
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from listener.errors import RenderError
from listener.filters import Filters
from listener.sandbox import Missing, Row, Run, joined, operators
from listener.syntax import TemplateError, check, lower, names_used

__all__ = ["Environment", "Expression", "Missing", "Row", "TemplateError", "Text"]

MAX_SOURCE = 4_000
"""Characters in the source of one text or expression."""
_RESULT = "result"


class Text:
    """A compiled text; `names` are those it uses from outside, `("new", "balance")` or, used whole, `("at",)`."""

    __slots__ = ("_template", "names")

    def __init__(self, template: Template, names: frozenset[tuple[str, ...]]) -> None:
        self._template = template
        self.names = names

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
    run = cast(Run, template.new_context(dict(names)))
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
        template, names = self._compiled(source, self._jinja.parse, state=None, otherwise="")
        return Text(template, names)

    def compile_expression(self, source: str) -> Expression:
        """Raises TemplateError."""
        template, names = self._compiled(source, self._parsed_expression, state="variable", otherwise=None)
        return Expression(template, names)

    def _parsed_expression(self, source: str) -> nodes.Template:
        parser = Parser(self._jinja, source, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            parser.fail("an expression ends here, but more follows", parser.stream.current.lineno)
        target = nodes.Name(_RESULT, "store", lineno=1)
        return nodes.Template([nodes.Assign(target, expression, lineno=1)], lineno=1)

    def _compiled(
        self, source: str, parse: Callable[[str], nodes.Template], *, state: str | None, otherwise: str | None
    ) -> tuple[Template, frozenset[tuple[str, ...]]]:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"longer than {MAX_SOURCE:,} characters", line=1)
        try:
            tree = parse(source)
            for line, token, digits in self._jinja.lexer.tokeniter(source, None, state=state):
                if token == "float" and Decimal(digits.replace("_", "")) != Decimal(repr(float(digits))):  # noqa: S105
                    raise TemplateError(f"the number {digits[:40]} has too many digits", line=line)
            check(tree, self._filters, self._labels)
            names = names_used(tree)
            lowered = lower(tree, otherwise)
            lowered.set_environment(self._jinja)
            return self._jinja.from_string(lowered), names
        except TemplateError:
            raise
        except TemplateSyntaxError as error:
            hint = "a text may use if, for and set" if "unknown tag" in (error.message or "") else ""
            raise TemplateError(error.message or "it cannot be read", line=error.lineno, hint=hint) from None
        except (RecursionError, MemoryError, SyntaxError, ValueError, ArithmeticError):
            raise TemplateError("nested too deeply, or a number too large", line=1) from None


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

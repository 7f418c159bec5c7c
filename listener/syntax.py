"""The syntax of the template language: what a tree of Jinja2's nodes may hold, which names it uses, what it becomes.

`check` refuses, `names_used` reports, `lower` rewrites; all three know the same closed set of nodes.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any

from jinja2 import nodes

from listener.errors import ListenerError
from listener.filters import Filters
from listener.operators import METHODS
from listener.sandbox import similar

MAX_DEPTH = 50
"""Levels of nesting in a text or expression."""

_DUNDER = re.compile("__.*__")
_PLAIN_NAMES = frozenset({"op", "at", "key"})
_OWN_NAMES = _PLAIN_NAMES | {"old", "new", "loop"}


class TemplateError(ListenerError, ValueError):
    """A text or expression that cannot be compiled: the 1-based line within it, what is wrong, how to mend it."""

    def __init__(self, message: str, *, line: int, hint: str = "") -> None:
        self.message = message
        self.line = line
        self.hint = hint
        super().__init__(f"line {line}: {message}" + (f" ({hint})" if hint else ""))


_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign)
_EXPRESSIONS = (
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Compare, nodes.Operand, nodes.CondExpr),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Concat),
    *(nodes.Filter, nodes.Test, nodes.Call),
)
_REFUSED = {
    "AssignBlock": ("a set block", "write {% set name = value %}"),
    "NSRef": ("setting a part of a name", "use the filter sum to add up a list"),
    "Dict": ("{...}", "write the words under labels: and use the filter label"),
    "Pow": ("**", "write a * a"),
}
_INSTEAD = {
    "format": 'use number, or join texts with "~"',
    "truncate": "use shorten",
    "safe": "texts are never escaped",
    "tojson": "a text cannot show a whole row",
}


def check(tree: nodes.Template, filters: Filters, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Raises TemplateError at the first thing that is not in the language or cannot work, whatever the values."""
    _Check(filters, labels).visit(tree, 0)


class _Check:
    def __init__(self, filters: Filters, labels: Mapping[str, Mapping[str, str]]) -> None:
        self._filters = filters
        self._labels = labels
        # what is set so far and not forgotten yet
        self._set: set[str] = set()

    def visit(self, node: nodes.Node, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise TemplateError("nested too deeply", line=node.lineno, hint="make it simpler")
        if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            name = type(node).__name__
            what, hint = _REFUSED.get(name, (name.lower(), "a text may use if, for and set"))
            raise TemplateError(f"{what} is not part of the language", line=node.lineno, hint=hint)
        match node:
            case nodes.Filter():
                self._filter(node)
            case nodes.Test(name=name) | nodes.Name(name=name) if name.lower() == "null":
                hint = "write none, as in new.note is none"
                raise TemplateError(f"{name} is not part of the language", line=node.lineno, hint=hint)
            case nodes.Test():
                self._known("test", node.name, self._filters.tests, node.lineno)
                self._arguments(node, self._filters.tests[node.name])
            case nodes.Call():
                self._call(node)
                # The function's name is judged above; what it is called on is visited below.
                inner = [node.node.node] if isinstance(node.node, nodes.Getattr) else []
                for child in (*inner, *node.args, *node.kwargs):
                    self.visit(child, depth + 1)
                return
            case nodes.Getattr(attr=name) | nodes.Getitem(arg=nodes.Const(value=str(name))) if _DUNDER.fullmatch(name):
                raise TemplateError(f"{name} is not part of the language", line=node.lineno, hint="name a column")
            case nodes.For(recursive=True):
                raise TemplateError("a loop cannot be recursive", line=node.lineno, hint="remove the word recursive")
            case nodes.For() if lost := self._set & _set_within(node):
                message = f'a for forgets at its end what it sets: "{min(lost)}" stays as it was'
                raise TemplateError(message, line=node.lineno, hint="use the filter sum, or choose another name")
            case nodes.Assign():
                self._set |= _targets(node.target)
            case nodes.Name(ctx="store") if node.name in _OWN_NAMES:
                raise TemplateError(
                    f'"{node.name}" has a meaning already', line=node.lineno, hint="choose another name"
                )
        outside = set(self._set)
        for child in node.iter_child_nodes():
            self.visit(child, depth + 1)
        if isinstance(node, nodes.For):
            self._set = outside

    def _filter(self, node: nodes.Filter) -> None:
        if node.name in _INSTEAD:
            raise TemplateError(f'there is no filter "{node.name}"', line=node.lineno, hint=_INSTEAD[node.name])
        self._known("filter", node.name, self._filters.filters, node.lineno)
        chosen = self._filters.filters[node.name]
        self._arguments(node, chosen.function, *([None] if chosen.run else []))
        first = node.args[0] if node.args else None
        if node.name == "label" and isinstance(first, nodes.Const):
            self._known("set of labels", str(first.value), self._labels, node.lineno)
        if node.name == "map" and isinstance(first, nodes.Const):
            self._known("filter", str(first.value), self._filters.filters, node.lineno)

    def _call(self, node: nodes.Call) -> None:
        match node.node:
            case nodes.Name(name="range"):
                if not 1 <= len(node.args) <= 3 or node.kwargs or node.dyn_args or node.dyn_kwargs:
                    raise TemplateError("range takes one to three numbers", line=node.lineno, hint="write range(3)")
            case nodes.Name(name=name):
                known = name in self._filters.filters
                hint = f"use a filter: value | {name}" if known else "the one function is range"
                raise TemplateError(f'there is no function "{name}"', line=node.lineno, hint=hint)
            case nodes.Getattr(attr=name):
                self._known("function", name, METHODS, node.lineno)
                self._arguments(node, METHODS[name])
            case _:
                message = "only range(...) and text.name(...) can be called"
                raise TemplateError(message, line=node.lineno, hint="use a filter: value | name")

    def _known(self, what: str, name: str, among: Iterable[str], line: int) -> None:
        among = list(among)
        if name not in among:
            known = f"known: {', '.join(sorted(among))}" if among else "write the words for codes under labels:"
            hint = similar(name, among) or known
            raise TemplateError(f'there is no {what} "{name}"', line=line, hint=hint)

    def _arguments(
        self, node: nodes.Filter | nodes.Test | nodes.Call, function: Callable[..., Any], *before: object
    ) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise TemplateError("* and ** are not part of the language", line=node.lineno, hint="write each value")
        if isinstance(node, nodes.Filter) and node.node is None:
            raise TemplateError("a filter needs a value before it", line=node.lineno, hint="write value | filter")
        name = node.node.attr if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) else ""
        name = name or getattr(node, "name", "")
        try:
            values: list[object] = [*before, None, *node.args]
            keywords = {str(pair.key): None for pair in node.kwargs}
            inspect.signature(function).bind(*values, **keywords)
        except TypeError as error:
            hint = "give it what its line in GUIDE.md shows"
            raise TemplateError(f"{name}: {error}", line=node.lineno, hint=hint) from None


def names_used(tree: nodes.Template) -> frozenset[tuple[str, ...]]:
    """The names from outside: `("new", "balance")` for a column, `("at",)` or `("new",)` for a name used whole.

    What `set` and `for` name is not among them.
    """
    found: set[tuple[str, ...]] = set()
    _find_names(tree, set(), found)
    return frozenset(found)


def _find_names(node: nodes.Node, local: set[str], found: set[tuple[str, ...]]) -> None:
    """Add to `found` what the node uses from outside; `local` grows by what it sets for those after it."""
    match node:
        case nodes.Name():
            if node.name not in local:
                found.add((node.name,))
            return
        case nodes.Getattr(node=nodes.Name(name=name), attr=column) if name not in local | _PLAIN_NAMES:
            found.add((name, column))
            return
        case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=str(column))) if (
            name not in local | _PLAIN_NAMES
        ):
            found.add((name, column))
            return
        case nodes.Call(node=nodes.Name()):
            for argument in node.args:
                _find_names(argument, local, found)
            return
        case nodes.Call(node=nodes.Getattr(node=value)):
            for child in (value, *node.args, *node.kwargs):
                _find_names(child, local, found)
            return
        case nodes.Assign():
            _find_names(node.node, local, found)
            local |= _targets(node.target)
            return
        case nodes.If():
            # Set on one way only, a name may still mean the outer one afterwards.
            ways = []
            for test, body in (*((branch.test, branch.body) for branch in (node, *node.elif_)), (None, node.else_)):
                if test is not None:
                    _find_names(test, local, found)
                ways.append(set(local))
                for child in body:
                    _find_names(child, ways[-1], found)
            local |= set.intersection(*ways)
            return
        case nodes.For():
            _find_names(node.iter, local, found)
            inside = local | _targets(node.target)
            if node.test is not None:
                _find_names(node.test, set(inside), found)
            for way, known in ((node.body, inside | {"loop"}), (node.else_, set(local))):
                for child in way:
                    _find_names(child, known, found)
            return
    for child in node.iter_child_nodes():
        _find_names(child, local, found)


def _set_within(loop: nodes.For) -> set[str]:
    return set().union(*(_targets(node.target) for node in loop.find_all(nodes.Assign)))


def _targets(target: nodes.Node) -> set[str]:
    return {name.name for name in (target, *target.find_all(nodes.Name)) if isinstance(name, nodes.Name)}


def _described(node: nodes.Node | None) -> str:
    """Whose value it is, as the admin wrote it."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{_described(node.node)}.{node.attr}"
        case nodes.Getitem(arg=nodes.Const(value=str(column))):
            return f"{_described(node.node)}.{column}"
        case nodes.Filter() | nodes.Test() | nodes.Call():
            return _described(node.node)
    return "a value"


def lower(tree: nodes.Template, otherwise: str | None) -> nodes.Template:
    """The same template with each operation as a call of an function of `listener.operators`; run `check` before.

    `otherwise` is what an inline `if` without an `else` gives.
    """
    rewriting = _Lowering(otherwise)
    return nodes.Template([rewriting.statement(node) for node in tree.body], lineno=tree.lineno)


def _operation(name: str, value: nodes.Expr, *args: nodes.Expr | str | int | None) -> nodes.Filter:
    line = value.lineno
    constants = [arg if isinstance(arg, nodes.Expr) else nodes.Const(arg, lineno=line) for arg in args]
    return nodes.Filter(value, f"op {name}", constants, [], None, None, lineno=line)


class _Lowering:
    def __init__(self, otherwise: str | None) -> None:
        self._otherwise = otherwise

    def statement(self, node: nodes.Node) -> nodes.Node:
        line = node.lineno
        match node:
            case nodes.Output():
                return nodes.Output([self._shown(child) for child in node.nodes], lineno=line)
            case nodes.Assign():
                return nodes.Assign(node.target, self.expression(node.node), lineno=line)
            case nodes.If():
                ways = [[self.statement(child) for child in way] for way in (node.body, node.elif_, node.else_)]
                return nodes.If(self.expression(node.test), *ways, lineno=line)
            case nodes.For():
                body, else_ = ([self.statement(child) for child in way] for way in (node.body, node.else_))
                test = self.expression(node.test) if node.test is not None else None
                cost = sum(1 for part in (node.test, *node.body) if part for _ in part.find_all(nodes.Node))
                items = _operation("loop", self.expression(node.iter), cost, _described(node.iter))
                return nodes.For(node.target, items, body, else_, test, False, lineno=line)
        raise _unknown(node)

    def _shown(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            return node
        return _operation("show", self.expression(node), _described(node))

    def expression(self, node: nodes.Node) -> nodes.Expr:
        line = node.lineno
        match node:
            case nodes.Const(value=float(value)):
                # repr gives the digits back as they were written: those that a float cannot hold are refused.
                return _operation("number", nodes.Const(repr(value), lineno=line))
            case nodes.Const() | nodes.Name():
                return node
            case nodes.List() | nodes.Tuple():
                return _operation("list", nodes.List([self.expression(child) for child in node.items], lineno=line))
            case nodes.Getattr():
                return _operation("attribute", self.expression(node.node), node.attr, _described(node.node))
            case nodes.Getitem(arg=nodes.Slice(start=start, stop=stop, step=step)):
                bounds = [None if bound is None else self.expression(bound) for bound in (start, stop, step)]
                return _operation("part", self.expression(node.node), *bounds, _described(node.node))
            case nodes.Getitem():
                return _operation("item", self.expression(node.node), self.expression(node.arg), _described(node.node))
            case nodes.Filter(node=nodes.Expr() as value):
                return self._with_arguments("filter", value, node.name, node)
            case nodes.Test():
                return self._with_arguments("test", node.node, node.name, node)
            case nodes.Call(node=nodes.Getattr(node=value, attr=name)):
                return self._with_arguments("method", value, name, node)
            case nodes.Call(node=nodes.Name(name="range")):
                first, *rest = (self.expression(arg) for arg in node.args)
                return _operation("range", first, *rest)
            case nodes.And() | nodes.Or():
                return type(node)(self.expression(node.left), self.expression(node.right), lineno=line)
            case nodes.Not():
                return nodes.Not(self.expression(node.node), lineno=line)
            case nodes.CondExpr():
                expr2 = nodes.Const(self._otherwise, lineno=line) if node.expr2 is None else self.expression(node.expr2)
                return nodes.CondExpr(self.expression(node.test), self.expression(node.expr1), expr2, lineno=line)
            case nodes.Compare():
                return self._comparison(node)
            case nodes.Concat():
                first, *rest = (self._shown(child) for child in node.nodes)
                return _operation("join", first, *rest)
            case nodes.Add() | nodes.Sub() | nodes.Mul() | nodes.Div() | nodes.FloorDiv() | nodes.Mod():
                left, right = self.expression(node.left), self.expression(node.right)
                labels = _described(node.left), _described(node.right)
                return _operation("arithmetic", left, node.operator, right, *labels)
            case nodes.Neg():
                return _operation("negative", self.expression(node.node), _described(node.node))
            case nodes.Pos():
                return _operation("positive", self.expression(node.node), _described(node.node))
        raise _unknown(node)

    def _with_arguments(
        self, operation: str, value: nodes.Expr, name: str, node: nodes.Filter | nodes.Test | nodes.Call
    ) -> nodes.Expr:
        args = [self.expression(arg) for arg in node.args]
        lowered = _operation(operation, self.expression(value), name, _described(value), *args)
        keywords = [nodes.Keyword(pair.key, self.expression(pair.value), lineno=pair.lineno) for pair in node.kwargs]
        return nodes.Filter(lowered.node, lowered.name, lowered.args, keywords, None, None, lineno=node.lineno)

    def _comparison(self, node: nodes.Compare) -> nodes.Expr:
        """`a < b < c` as `a < b and b < c`."""
        sides: list[nodes.Expr] = [node.expr, *(operand.expr for operand in node.ops)]
        pairs: list[nodes.Expr] = []
        for (left, right), operand in zip(pairwise(sides), node.ops, strict=True):
            labels = _described(left), _described(right)
            pairs.append(_operation("compare", self.expression(left), operand.op, self.expression(right), *labels))
        return reduce(lambda so_far, pair: nodes.And(so_far, pair, lineno=node.lineno), pairs)


def _unknown(node: nodes.Node) -> TemplateError:
    """For a node that `check` should have refused: what is not known is never passed on."""
    return TemplateError(f"{type(node).__name__.lower()} is not part of the language", line=node.lineno)

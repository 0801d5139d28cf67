"""What an expression of Prometheus asks for: which metrics, and which of their labels it goes by."""

from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser as promql


@dataclass(frozen=True, slots=True)
class Use:
    """One metric in an expression. `labels` are those that it is selected or grouped by; `chosen` are the values that a
    label must have one of, or none of.
    """

    metric: str
    labels: frozenset[str]
    chosen: frozenset[tuple[str, str]]


def uses(expression: str) -> list[Use]:
    """In the order in which they stand. Raises `ValueError` for what is no expression."""
    return list(_uses(promql.parse(expression), frozenset()))


def _uses(node: object, grouped: frozenset[str]) -> Iterator[Use]:
    match node:
        case promql.VectorSelector():
            yield _use(node, grouped)
        case promql.MatrixSelector():
            yield _use(node.vector_selector, grouped)
        case promql.AggregateExpr():
            yield from _uses(node.expr, grouped | set(node.modifier.labels if node.modifier else ()))
        case promql.Call():
            for argument in node.args:
                yield from _uses(argument, grouped)
        case promql.BinaryExpr():
            yield from _uses(node.lhs, grouped)
            yield from _uses(node.rhs, grouped)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _uses(node.expr, grouped)


def _use(selector: promql.VectorSelector, grouped: frozenset[str]) -> Use:
    matchers = selector.matchers.matchers
    chosen = {
        (matcher.name, value)
        for matcher in matchers
        for value in matcher.value.split("|")
        if value.isidentifier() or not value
    }
    return Use(selector.name or "", grouped | {matcher.name for matcher in matchers}, frozenset(chosen))

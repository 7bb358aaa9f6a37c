"""Grafana's dashboard model, as far as the boards use it: what a board says here becomes the JSON that Grafana reads.

Panels get their ids and places here, in the order in which a board lists them, so they are unique and never overlap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SCHEMA: Final = 41
"""Of Grafana 12, which ``deploy/compose.yaml`` starts; newer ones take older boards along."""
COLUMNS: Final = 24
TAG: Final = "llm-optimizer"
PREFIX: Final = "llm_optimizer_"
DATASOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}

# Every series has ``instance``, the node; these have a variable of their own.
_VARIABLES: Final = {"route": "route", "arm": "arm", "model": "model"}

Json = dict[str, Any]


def series(name: str, *by: str, **fixed: str) -> str:
    """A selector of the metric ``name`` (without our prefix) on the chosen nodes.

    ``by`` are the labels that a variable narrows, ``fixed`` labels with a value; one that begins with ``~`` or ``!`` is
    the rest of an operator: ``outcome="!=completed"``, ``status="~5..|4.."``.
    """
    parts = ['instance=~"$node"', *(f'{label}=~"${_VARIABLES[label]}"' for label in by)]
    for label, value in fixed.items():
        operator = {"!=": "!=", "~": "=~"}.get(value[: 2 if value[0] == "!" else 1], "=")
        parts.append(f'{label}{operator}"{value.lstrip("!=~")}"')
    return f"{PREFIX}{name}{{{', '.join(parts)}}}"


def rate(name: str, *by: str, **fixed: str) -> str:
    """Growth of a counter per second."""
    return f"rate({series(name, *by, **fixed)}[$__rate_interval])"


def grown(name: str, *by: str, **fixed: str) -> str:
    """Growth of a counter within the time that is shown."""
    return f"increase({series(name, *by, **fixed)}[$__range])"


def known(expression: str) -> str:
    """Without the series whose value is not known (NaN), which would make a sum unknown."""
    return f"({expression} == {expression})"


def quantile(share: float, name: str, by: Sequence[str], *narrowed: str) -> str:
    """A quantile of a histogram over the last ``$__rate_interval``."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(name + '_bucket', *narrowed)}))"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and how its series are called. ``instant``: only the value at the end of what is "
    "shown."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``text`` says what it shows and when to worry; ``unit`` is Grafana's id of a unit.

    ``options`` are those of the kind, ``defaults`` those of its fields, ``overrides`` by a pattern of series' names.
    """

    kind: str
    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 12
    height: int = 8
    options: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana reads it, at a place of the grid."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": dict(DATASOURCE),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [_target(index, query) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": {"unit": self.unit, **self.defaults}, "overrides": [*self.overrides]},
            "options": self.options,
            "transformations": [*self.transformations],
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Mark:
    """Vertical lines in every chart of a board, where ``expr`` has a value."""

    name: str
    expr: str
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Board:
    """One board. ``variables`` are the labels that it can be narrowed by, besides the node."""

    name: str
    title: str
    text: str
    rows: Sequence[Row]
    variables: Sequence[str] = ()
    marks: Sequence[Mark] = ()
    span: str = "now-6h"

    def json(self) -> Json:
        """As Grafana reads it."""
        return {
            "uid": f"{TAG}-{self.name}",
            "title": self.title,
            "description": self.text,
            "tags": [TAG],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": self.span, "to": "now"},
            "refresh": "30s",
            "timepicker": {},
            "fiscalYearStartMonth": 0,
            "links": [_LINKS],
            "templating": {"list": [_DATASOURCE_VARIABLE, _node(), *map(_variable, self.variables)]},
            "annotations": {"list": [_mark(mark) for mark in self.marks]},
            "panels": _placed(self.rows),
        }


_LINKS: Final[Json] = {
    "type": "dashboards",
    "title": "LLM Auto Optimizer",
    "tags": [TAG],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}
_DATASOURCE_VARIABLE: Final[Json] = {
    "type": "datasource",
    "name": "datasource",
    "label": "Prometheus",
    "query": "prometheus",
    "regex": "",
    "refresh": 1,
    "hide": 0,
    "multi": False,
    "includeAll": False,
    "current": {},
    "options": [],
}


def _node() -> Json:
    return _choice("node", f"label_values({PREFIX}build_info, instance)")


def _variable(label: str) -> Json:
    # A route of the choice narrows the arms that can be chosen, and both the models.
    order = list(_VARIABLES)
    above = ", ".join(f'{one}=~"${one}"' for one in order[: order.index(label)])
    return _choice(label, f"label_values({PREFIX}requests_total{{{above}}}, {label})")


def _choice(name: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": dict(DATASOURCE),
        "query": {"query": query, "refId": f"Variable-{name}"},
        "definition": query,
        "regex": "",
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def _mark(mark: Mark) -> Json:
    return {
        "name": mark.name,
        "datasource": dict(DATASOURCE),
        "enable": True,
        "hide": False,
        "iconColor": mark.colour,
        "titleFormat": mark.name,
        "textFormat": mark.text,
        "target": {"expr": mark.expr, "interval": "30s", "refId": "Anno"},
    }


def _target(index: int, query: Query) -> Json:
    shape: Json = {"instant": True, "range": False} if query.instant else {"instant": False, "range": True}
    return {
        "refId": chr(ord("A") + index),
        "datasource": dict(DATASOURCE),
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": query.format,
        **shape,
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(_heading(row.title, len(placed) + 1, y))
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel.json(len(placed) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def _heading(title: str, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}

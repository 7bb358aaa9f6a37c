"""The kinds of panels that the boards are made of, with the settings that they share."""

from collections.abc import Sequence
from typing import Any, Final

from monitoring.boards.model import Json, Panel, Query

GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
_REDUCE: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_UNKNOWN: Final[Json] = {
    "type": "special",
    "options": {"match": "nan", "result": {"text": "unknown", "color": "text", "index": 0}},
}
"""A gauge that is not known is NaN, and says so."""


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    least: float | None = 0.0,
    most: float | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
) -> Panel:
    """Values over time. ``stacked``: the series are parts of a whole. ``steps`` are drawn as lines."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        # A gap is a gap: what is not known is not drawn as if it were.
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if steps else "off"},
    }
    return Panel(
        "timeseries",
        title,
        text,
        queries,
        unit=unit,
        width=width,
        height=height,
        options={
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "mean"],
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        defaults={"custom": custom, **_bounds(least, most), **_thresholds(steps)},
    )


def number(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    height: int = 4,
    steps: Sequence[tuple[float | None, str]] = (),
    words: Sequence[tuple[float, str, str]] = (),
    decimals: int | None = None,
) -> Panel:
    """The present value. ``steps`` colour it, ``words`` are (value, text, colour) to say instead of it."""
    mappings: list[Json] = [_UNKNOWN]
    if words:
        said = {
            f"{value:g}": {"text": word, "color": colour, "index": i + 1}
            for i, (value, word, colour) in enumerate(words)
        }
        mappings.append({"type": "value", "options": said})
    defaults: Json = {"mappings": mappings, "noValue": "none", **_thresholds(steps)}
    if decimals is not None:
        defaults["decimals"] = decimals
    return Panel(
        "stat",
        title,
        text,
        queries,
        unit=unit,
        width=width,
        height=height,
        options={
            "reduceOptions": _REDUCE,
            "colorMode": "value",
            "graphMode": "none" if words else "area",
            "justifyMode": "auto",
            "textMode": "auto",
            "orientation": "auto",
            "wideLayout": True,
        },
        defaults=defaults,
    )


def bars(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    most: float | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
) -> Panel:
    """The present values side by side, to be compared."""
    return Panel(
        "bargauge",
        title,
        text,
        queries,
        unit=unit,
        width=width,
        height=height,
        options={
            "reduceOptions": _REDUCE,
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
        },
        defaults={"mappings": [_UNKNOWN], **_bounds(0.0, most), **_thresholds(steps)},
    )


def table(
    title: str,
    text: str,
    columns: Sequence[tuple[str, str, str]],
    keys: Sequence[str],
    *,
    width: int = 24,
    height: int = 9,
) -> Panel:
    """One line per combination of ``keys``; ``columns`` are (heading, unit, expression), all by the same "
    "keys."""
    names = {f"Value #{chr(ord('A') + i)}": heading for i, (heading, _, _) in enumerate(columns)}
    order = {name: i for i, name in enumerate((*keys, *names))}
    units = [
        {
            "matcher": {"id": "byName", "options": heading},
            "properties": [{"id": "unit", "value": unit}],
        }
        for heading, unit, _ in columns
    ]
    return Panel(
        "table",
        title,
        text,
        [Query(expression, instant=True, format="table") for _, _, expression in columns],
        width=width,
        height=height,
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": columns[0][0], "desc": True}],
        },
        defaults={"mappings": [_UNKNOWN], "custom": {"align": "auto", "filterable": True}},
        overrides=units,
        transformations=[
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names},
            },
        ],
    )


def states(
    title: str,
    text: str,
    *queries: Query,
    words: Sequence[tuple[float, str, str]],
    width: int = 24,
    height: int = 8,
) -> Panel:
    """What something was over time, in words: (value, text, colour)."""
    said = {
        f"{value:g}": {"text": word, "color": colour, "index": i}
        for i, (value, word, colour) in enumerate(words)
    }
    return Panel(
        "state-timeline",
        title,
        text,
        queries,
        width=width,
        height=height,
        options={
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        defaults={
            "mappings": [{"type": "value", "options": said}],
            "custom": {"fillOpacity": 70, "lineWidth": 0},
            "color": {"mode": "thresholds"},
            **_thresholds(()),
        },
    )


def heat(title: str, text: str, query: Query, *, unit: str, width: int = 12, height: int = 8) -> Panel:
    """How values are spread over time; the expression is a histogram's buckets by ``le``."""
    return Panel(
        "heatmap",
        title,
        text,
        [Query(query.expr, "{{le}}", format="heatmap")],
        unit=unit,
        width=width,
        height=height,
        options={
            "calculate": False,
            "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False},
            "rowsFrame": {"layout": "auto"},
            "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "reverse": False},
            "cellGap": 1,
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "showValue": "never",
        },
    )


def _bounds(least: float | None, most: float | None) -> Json:
    return {name: bound for name, bound in (("min", least), ("max", most)) if bound is not None}


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> Json:
    rows: list[dict[str, Any]] = [{"value": at, "color": colour} for at, colour in steps or ((None, "text"),)]
    return {"thresholds": {"mode": "absolute", "steps": rows}}

"""The charts of the report, in matplotlib, each from `report.json` alone.

An artist with `gid="mark-…"` keeps that mark in the page as `data-mark`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hyle_compiler.durations import format_duration
from hyle_compiler.page.svg import COLOURS, SERIES, STYLE, inline
from hyle_compiler.quantities import SI

__all__ = ["MOST_ROWS", "accuracy", "cost", "floor", "frontier", "quality"]

Report = Mapping[str, Any]
WIDTH = 7.4
MOST_ROWS = 28
MOST_SQUARES = 240
LEAST_SPAN = 2.0
AGE_MARKS = "osD^v"


def accuracy(report: Report) -> str:
    """Score over age: every instance a dot, their mean a line, one standard deviation a band."""
    found = report["calibration"]
    ages = [age["age_s"] for age in found["ages"]]
    where = np.log10(ages) if min(ages) > 0 and len(ages) > 1 else np.arange(len(ages), dtype=float)
    mean = np.array([100 * age["mean"] for age in found["ages"]])
    spread = np.array([100 * age["std"] for age in found["ages"]])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.add_subplot()
        width = max(float(np.ptp(where)), 1.0)
        axes.fill_between(where, mean - spread, mean + spread, color=COLOURS["s1"], alpha=0.16, linewidth=0)
        for place, age in zip(where, found["ages"], strict=True):
            scores = 100 * np.array(age["scores"])
            shift = np.linspace(-0.012, 0.012, len(scores)) * width if len(scores) > 1 else np.zeros(1)
            axes.plot(place + shift, scores, "o", color=COLOURS["s1"], markersize=4, alpha=0.45, markeredgewidth=0)
        axes.plot(where, mean, "-", color=COLOURS["s1"], linewidth=2.2)
        axes.plot(where, mean, "o", color=COLOURS["s1"], markersize=8, gid="mark-accuracy-mean")
        for value, word, colour, style in (
            (100 * found["float"], "float model", "ink", (0, (4, 3))),
            (100 * found["exact"], "exact matter", "soft", (0, (1, 2))),
        ):
            axes.axhline(value, color=COLOURS[colour], linewidth=1.4, linestyle=style, label=f"{word} {value:.2f} %")
        values = [*(mean - spread), *(mean + spread), 100 * found["float"], 100 * found["exact"]]
        values += [100 * score for age in found["ages"] for score in age["scores"]]
        axes.set_ylim(*_limits(values, LEAST_SPAN))
        axes.set_xlim(min(where) - 0.08 * width, max(where) + 0.08 * width)
        axes.set_xticks(where, [format_duration(age) if age else "fresh" for age in ages])
        axes.set_xlabel("time after programming")
        axes.set_ylabel(f"{found['metric']}, %")
        _quiet(axes.yaxis)
        axes.legend(loc="lower left", ncols=2, bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2)
        return inline(figure, "accuracy", f"{found['metric']} over time after programming; the table holds the numbers")


def _quiet(axis: Axis) -> None:
    """A few round marks and a thin line at each."""
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axis.grid(visible=True)


def _limits(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    spare = max(0.12 * (high - low), (least - (high - low)) / 2)
    return low - spare, high + spare


def quality(report: Report) -> str:
    """Signal-to-noise ratio of every layer at every age, and how far each alone moves the answers."""
    layers = report["layers"]
    ages = [age["age_s"] for age in report["calibration"]["ages"]]
    ratios = np.array([[math.nan if v is None else v for v in layer["snr_db"]] for layer in layers], dtype=float)
    moves = np.array([100 * (layer["sensitivity"] or 0.0) for layer in layers])
    measured = any(layer["sensitivity"] is not None for layer in layers)
    names = [layer["name"] for layer in layers]
    with matplotlib.rc_context(STYLE):
        few = len(layers) <= MOST_ROWS
        figure = Figure(figsize=(WIDTH, _height(layers) + 0.35), layout="constrained")
        panels = _panels(figure, 2 if measured else 1, few)
        _ratios(panels[0], ratios, ages, few)
        if measured:
            _bars(panels[1], moves, "s3", "change of the answers, %", few, "sensitivity")
        _rows(panels, names, few)
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=len(words))
        return inline(figure, "quality", "Signal-to-noise ratio and sensitivity of every layer; the table holds them")


def cost(report: Report) -> str:
    """Energy and latency an inference of every layer, beside digital ones; empty where the profile gives neither."""
    layers = (report.get("cost") or {}).get("layers", [])
    kinds = [
        (key, unit, word, colour)
        for key, unit, word, colour in (
            ("energy_j", "J", "energy an inference", "s2"),
            ("latency_s", "s", "time an inference", "s4"),
        )
        if any(layer[key] for layer in layers)
    ]
    if not kinds:
        return ""
    with matplotlib.rc_context(STYLE):
        few = len(layers) <= MOST_ROWS
        figure = Figure(figsize=(WIDTH, _height(layers)), layout="constrained")
        panels = _panels(figure, len(kinds), few)
        for axes, (key, unit, word, colour) in zip(panels, kinds, strict=True):
            values = np.array([layer[key] or 0.0 for layer in layers])
            others = np.array([layer[f"digital_{key}"] or 0.0 for layer in layers])
            size, prefix = _prefix(float(values.max()))
            _bars(axes, values / size, colour, f"{word}, {prefix}{unit}", few, key, others / size)
        _rows(panels, [layer["name"] for layer in layers], few)
        return inline(figure, "cost", "Energy and time an inference of every layer; the table holds the numbers")


def frontier(report: Report) -> str:
    """Points lost against the share of multiply-accumulates on physics, for every plan that was tried."""
    budget = report["budget"]
    points = budget["frontier"]
    share = np.array([100 * point["share_of_macs"] for point in points])
    drop = np.array([100 * point["drop"] for point in points])
    error = np.array([100 * point["standard_error"] for point in points])
    chosen = points.index(budget["chosen"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.add_subplot()
        limit = 100 * budget["max_drop"]
        axes.errorbar(share, drop, error, fmt="none", ecolor=COLOURS["s1"], elinewidth=1.4, alpha=0.6)
        axes.plot(share, drop, "o", color=COLOURS["s1"], markersize=7, label="tried", gid="mark-frontier")
        axes.plot(
            share[chosen], drop[chosen], "o", markersize=14, label="chosen",
            markerfacecolor="none", markeredgecolor=COLOURS["ink"], markeredgewidth=1.8,
        )  # fmt: skip
        axes.axhline(
            limit, color=COLOURS["bad"], linewidth=1.4, linestyle=(0, (4, 3)), label=f"budget {limit:g} points"
        )
        axes.set_ylim(*_limits([*(drop - error), *(drop + error), limit, 0.0], 1.0))
        axes.set_xlim(min(-3.0, float(share.min())), 103.0)
        axes.set_xlabel("multiply-accumulates on physics, %")
        axes.set_ylabel("points lost")
        _quiet(axes.yaxis)
        axes.legend(loc="lower left", ncols=3, bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2)
        return inline(figure, "frontier", "Points lost against the share on physics; the table holds the numbers")


def floor(report: Report) -> tuple[str, int]:
    """Tiles in order, each filled as far as its layer fills it; and how many tiles one square stands for."""
    plan = report["floor"]
    tiles = [entry for entry in plan["tiles"] for _ in range(entry["count"])] if _count(plan) <= MOST_SQUARES else []
    each = 1
    if not tiles:
        each = math.ceil(_count(plan) / MOST_SQUARES)
        tiles = _every(plan["tiles"], each)
    bounded = plan["tiles_on_chip"] if plan["tiles_on_chip"] and not plan["reloadable"] and each == 1 else 0
    idle = max(0, min(bounded, MOST_SQUARES) - len(tiles))
    across = next(count for count in (8, 16, 24) if len(tiles) + idle <= 4 * count or count == 24)
    down = math.ceil((len(tiles) + idle) / across)
    with matplotlib.rc_context(STYLE):
        size = WIDTH / across
        figure = Figure(figsize=(WIDTH, down * size))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(-0.05, across - 0.05 + 0.1)
        axes.set_ylim(down - 0.05 + 0.1, -0.05)
        for index in range(len(tiles) + idle):
            column, row = index % across, index // across
            entry = tiles[index] if index < len(tiles) else None
            _square(axes, column, row, plan, entry, 72 * size)
        return inline(figure, "floor", f"{_count(plan)} tiles in use; the table of layers says whose they are"), each


def _count(plan: Mapping[str, Any]) -> int:
    return sum(entry["count"] for entry in plan["tiles"])


def _every(entries: Sequence[Mapping[str, int]], each: int) -> list[Mapping[str, int]]:
    """The first tile of every `each`."""
    ends = np.cumsum([entry["count"] for entry in entries])
    firsts = np.searchsorted(ends, np.arange(0, int(ends[-1]), each), side="right")
    return [entries[int(i)] for i in firsts]


def _square(
    axes: Axes, column: int, row: int, plan: Mapping[str, Any], entry: Mapping[str, int] | None, points: float
) -> None:
    side = 0.9
    frame = Rectangle((column, row), side, side, linewidth=1, edgecolor=COLOURS["line"], facecolor=COLOURS["panel"])
    axes.add_patch(frame)
    if entry is None:
        return
    colour = COLOURS[SERIES[entry["layer"] % len(SERIES)]]
    width, height = side * entry["cols"] / plan["cols"], side * entry["rows"] / plan["rows"]
    axes.add_patch(Rectangle((column, row), width, height, linewidth=0, facecolor=colour, alpha=0.75))
    letters = max(6.0, min(13.0, 0.3 * points))
    axes.text(column + side / 2, row + side / 2, str(entry["layer"] + 1), ha="center", va="center", fontsize=letters)


def _height(layers: Sequence[Any]) -> float:
    return 0.75 + 0.27 * len(layers) if len(layers) <= MOST_ROWS else 4.2


def _panels(figure: Figure, count: int, few: bool) -> list[Axes]:
    grid = (1, count) if few else (count, 1)
    made = figure.subplots(*grid, sharey=few, sharex=not few, squeeze=False)
    return list(made.reshape(-1))


def _rows(panels: Sequence[Axes], names: Sequence[str], few: bool) -> None:
    """Layers from top to bottom with their names, or by their number from left to right where they are many."""
    if few:
        labels = [f"{number} {name if len(name) <= 22 else name[:10] + '…' + name[-11:]}" for number, name in
                  enumerate(names, 1)]  # fmt: skip
        panels[0].set_yticks(np.arange(len(names)), labels)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for axes in panels:
            _quiet(axes.xaxis)
            axes.spines["left"].set_visible(False)
    else:
        panels[-1].set_xlabel("layer")
        for axes in panels:
            _quiet(axes.yaxis)


def _ratios(axes: Axes, ratios: np.ndarray[Any, Any], ages: Sequence[float], few: bool) -> None:
    place = np.arange(len(ratios)) if few else np.arange(1, len(ratios) + 1)
    if few:
        told = np.isfinite(ratios).any(axis=1)
        low, high = np.nanmin(ratios[told], axis=1), np.nanmax(ratios[told], axis=1)
        axes.hlines(place[told], low, high, color=COLOURS["line"], linewidth=3)
    for index, age in enumerate(ages):
        colour, mark = COLOURS[("s1", "s2", "s5", "s4")[index % 4]], AGE_MARKS[index % len(AGE_MARKS)]
        xs, ys = (ratios[:, index], place) if few else (place, ratios[:, index])
        word = f"after {format_duration(age)}" if age else "fresh"
        axes.plot(xs, ys, mark, color=colour, markersize=6.5 if few else 3, label=word, gid=f"mark-snr-{index}")
    (axes.set_xlabel if few else axes.set_ylabel)("signal over noise, dB")
    if np.isfinite(ratios).any():
        low, high = min(0.0, float(np.nanmin(ratios))), float(np.nanmax(ratios))
        (axes.set_xlim if few else axes.set_ylim)(low, high + 0.06 * (high - low))


def _bars(
    axes: Axes,
    values: np.ndarray[Any, Any],
    colour: str,
    label: str,
    few: bool,
    mark: str,
    others: np.ndarray[Any, Any] | None = None,
) -> None:
    """Bars of every layer, and hollow ones of what they are compared with."""
    place = np.arange(len(values)) if few else np.arange(1, len(values) + 1)
    draw = axes.barh if few else axes.bar
    draw(place, values, 0.55 if few else 0.8, color=COLOURS[colour], gid=f"mark-{mark}")
    (axes.set_xlabel if few else axes.set_ylabel)(label)
    largest = float(values.max())
    if others is not None:
        draw(place, others, 0.78 if few else 0.9, facecolor="none", edgecolor=COLOURS["soft"], linewidth=1.1)
        largest = max(largest, float(others.max()))
    (axes.set_xlim if few else axes.set_ylim)(0.0, largest * 1.06 or 1.0)


def _prefix(largest: float) -> tuple[float, str]:
    return next((pair for pair in SI if largest >= pair[0]), SI[-1])

"""Draw docs/overview.svg: the way the data goes, and accuracy over age by the table of the README.

Run: python docs/figures/overview.py [--check]
The figures are read from the README's table, which benchmarks/bench_accuracy.py prints; `--check` says whether the
drawing holds the same figures, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from hyle_compiler.page.svg import COLOURS, STYLE, inline
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "overview.svg"
ROW = re.compile(r"^\|([^|]*)\|([^|]*)\|[^|]*\|\s*([\d.]+)\s*\|(.+)\|\s*$")
POINT = re.compile(r"([\d.]+) ± ([\d.]+)")
AGES_S = (25.0, 86400.0, 31536000.0)
SHOWN = (("mnist_lenet5", "s2"), ("ResNet8", "s1"), ("DS-CNN", "s4"))
THEME = """
:root { --ink: #17202c; --soft: #556274; --line: #d9dfe7; --panel: #f4f6f9; --bad: #b3261e;
        --s1: #2b66d9; --s2: #0f8f7e; --s3: #c76a12; --s4: #7a4fd0; --s5: #c2347f; --s6: #5b7c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eef5; --soft: #a3b0c2; --line: #3a4656; --panel: #1b2430;
        --bad: #ff9a91; --s1: #74a7ff; --s2: #45d0bb; --s3: #f2a65a; --s4: #b79bff; --s5: #ff8cc2; --s6: #b2d36b; } }
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
"""
Rows = dict[str, dict[str, list[float]]]


def table(text: str) -> Rows:
    """The README's accuracy table by model and copies: the float score, then mean and deviation at every age."""
    found: Rows = {}
    model = ""
    for line in text.splitlines():
        match = ROW.match(line)
        if match and (points := POINT.findall(match[4])) and len(points) == len(AGES_S):
            model = match[1].strip() or model
            numbers = [float(match[3]), *(float(value) for point in points for value in point)]
            found.setdefault(model, {})[match[2].strip()] = numbers
    return found


def _box(axes: Axes, x: float, y: float, width: float, words: str, note: str, colour: str) -> None:
    shape = FancyBboxPatch(
        (x, y), width, 0.9, boxstyle="round,pad=0,rounding_size=0.14", linewidth=1.4,
        edgecolor=COLOURS[colour], facecolor=COLOURS["panel"],
    )  # fmt: skip
    axes.add_patch(shape)
    middle = y + (0.6 if note else 0.45)
    axes.text(x + width / 2, middle, words, ha="center", va="center", fontsize=10.5, fontweight="bold")
    axes.text(x + width / 2, y + 0.26, note, ha="center", va="center", fontsize=8.2, color=COLOURS["soft"])


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    shape = {"arrowstyle": "-|>", "linewidth": 1.4, "color": COLOURS["soft"], "shrinkA": 2, "shrinkB": 2}
    axes.annotate("", end, start, arrowprops=shape | {"connectionstyle": f"arc3,rad={bend}"})


def _way(axes: Axes) -> None:
    """Boxes from the model to the answer, and the two ways back."""
    axes.set_axis_off()
    axes.set_xlim(0, 18)
    axes.set_ylim(0.2, 4.1)
    for y, words, note in (
        (3.1, "ONNX model", "trained anywhere"),
        (1.75, "samples", "calibration"),
        (0.4, "profile", "constraints, sources"),
    ):
        _box(axes, 0.1, y, 3.1, words, note, "s3")
        _arrow(axes, (3.2, y + 0.45), (4.2, 2.2))
    for x, width, words, note, colour in (
        (4.2, 2.9, "compiler", "map, calibrate, adapt", "s1"),
        (8.0, 2.5, "bundle", "signed, a file", "s5"),
        (11.4, 2.7, "edge agent", "gRPC, self-test", "s2"),
        (15.0, 2.9, "physics", "or its digital twin", "s4"),
    ):
        _box(axes, x, 1.75, width, words, note, colour)
    for start, end in ((7.1, 8.0), (10.5, 11.4), (14.1, 15.0)):
        _arrow(axes, (start, 2.2), (end, 2.2))
    _arrow(axes, (12.3, 3.4), (12.3, 2.65))
    axes.text(12.5, 3.55, "gRPC inference: private, local", ha="right", fontsize=8.6, color=COLOURS["soft"])
    _arrow(axes, (13.2, 2.65), (13.2, 3.4))
    axes.text(13.0, 3.55, "MQTT telemetry: aggregates only", ha="left", fontsize=8.6, color=COLOURS["soft"])
    _arrow(axes, (16.4, 1.75), (5.6, 1.75), bend=-0.16)
    words = "hardware in the loop: calibrate, adapt"
    axes.text(11.0, 0.45, words, ha="center", fontsize=8.6, color=COLOURS["soft"])


def _ages(axes: Axes, rows: Rows, start: str, colour: str) -> None:
    """One model's accuracy: filled copies as a line with its deviation, one copy a weight as a dotted line."""
    name = next(model for model in rows if model.startswith(start))
    where = np.log10(AGES_S)
    for copies, style, marker in (("default", "-", "o"), ("1", (0, (1, 1.6)), "s")):
        numbers = rows[name][copies]
        mean, spread = np.array(numbers[1::2]), np.array(numbers[2::2])
        axes.fill_between(where, mean - spread, mean + spread, color=COLOURS[colour], alpha=0.16, linewidth=0)
        axes.plot(where, mean, linestyle=style, marker=marker, markersize=5, color=COLOURS[colour], linewidth=2)
    axes.axhline(numbers[0], color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_title(name.replace(" (MLPerf Tiny)", ""), fontsize=10, fontweight="bold", loc="left")
    axes.text(where[0], numbers[0] + 1.5, f"float {numbers[0]:.1f}", fontsize=8.6, color=COLOURS["soft"], va="bottom")
    axes.set_xticks(where, ["25 s", "1 day", "1 year"])
    axes.set_xlim(where[0] - 0.4, where[-1] + 0.4)
    axes.set_ylim(30, 106)
    axes.set_yticks([40, 60, 80, 100])
    axes.grid(axis="y")


def draw(rows: Rows) -> str:
    """The drawing, as one SVG file; the figures stand in it once more as JSON."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 5.0), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.9, 1.05))
        top.patch.set_alpha(0.0)
        bottom.patch.set_alpha(0.0)
        _way(top.subplots())
        panels = bottom.subplots(1, len(SHOWN), sharey=True)
        for axes, (start, colour) in zip(panels, SHOWN, strict=True):
            _ages(axes, rows, start, colour)
        panels[0].set_ylabel("top-1 on pcm-generic, %")
        bottom.supxlabel(
            "age after programming; solid: copies fill idle tiles, dotted: one device pair a weight",
            fontsize=9, color=COLOURS["soft"],
        )  # fmt: skip
        drawn = inline(figure, "overview", "The way from a model to answers, and accuracy over age on pcm-generic")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert box is not None
    size = f'xmlns="http://www.w3.org/2000/svg" width="{box[1]}" height="{box[2]}" '
    kept = f"<style>{THEME}</style><metadata>{json.dumps(figures(rows), sort_keys=True)}</metadata>"
    head, _, rest = drawn.replace("<svg ", f"<svg {size}", 1).partition(">")
    return f"{head}>{kept}{rest}\n"


def figures(rows: Rows) -> Rows:
    """What the drawing shows of the table."""
    return {name: rows[name] for start, _ in SHOWN for name in rows if name.startswith(start)}


def main() -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether docs/overview.svg holds the README's figures")
    args = parser.parse_args()
    rows = table((ROOT / "README.md").read_text(encoding="utf-8"))
    if not args.check:
        OUT.write_text(draw(rows), encoding="utf-8")
        return 0
    kept = re.search(r"<metadata>(.*?)</metadata>", OUT.read_text(encoding="utf-8"), re.DOTALL)
    if kept is None or json.loads(kept[1]) != figures(rows):
        print("docs/overview.svg is old: run python docs/figures/overview.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

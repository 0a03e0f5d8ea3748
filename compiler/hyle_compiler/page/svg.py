"""From a matplotlib figure to an inline SVG that takes its colours from the page and is the same bytes every time."""

from __future__ import annotations

import io
import logging
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["COLOURS", "SERIES", "STYLE", "inline"]

# Colours that the charts are drawn in, and the page's custom properties that take their place.
COLOURS = {
    "ink": "#0000a1",
    "soft": "#0000a2",
    "line": "#0000a3",
    "panel": "#0000a4",
    "bad": "#0000a5",
    "s1": "#0000b1",
    "s2": "#0000b2",
    "s3": "#0000b3",
    "s4": "#0000b4",
    "s5": "#0000b5",
    "s6": "#0000b6",
}
SERIES = ("s1", "s2", "s3", "s4", "s5", "s6")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "hyle",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "axes.labelcolor": COLOURS["soft"],
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 4.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 9.5,
    "legend.labelcolor": COLOURS["soft"],
    "path.simplify": False,
    "text.parse_math": False,
}
logging.getLogger("matplotlib").setLevel(logging.ERROR)
SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def inline(figure: Figure, name: str, title: str) -> str:
    """Draw a figure.

    Args:
        figure: Drawn in `COLOURS` under `STYLE`.
        name: Unique on the page; begins every identifier in it.
        title: What the chart shows, for those who do not see it.
    """
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(buffer.getvalue())
    text = ElementTree.tostring(_plain(root, name, title), encoding="unicode")
    for word, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{word})")
    return text


def _plain(root: ElementTree.Element, name: str, title: str) -> ElementTree.Element:
    """Take off what the page does not need, and make identifiers its own."""
    for tag in (f"{SVG}metadata", f"{SVG}style"):
        for parent in list(root.iter()):
            for child in [one for one in parent if one.tag == tag or one.tag.endswith("}metadata")]:
                parent.remove(child)
    for defs in list(root.iter(f"{SVG}defs")):
        for style in [one for one in defs if one.tag == f"{SVG}style"]:
            defs.remove(style)
    used = set(re.findall(r"(?:url\(#|\")#?([A-Za-z0-9_-]+)", " ".join(_references(root))))
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _rewrite(element, used, name)
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-label", "class": "chart"}
    label = ElementTree.Element("title", {"id": f"{name}-label"})
    label.text = title
    root.insert(0, label)
    return root


def _references(root: ElementTree.Element) -> list[str]:
    return [
        f'"{value}"' if key == LINK else value
        for element in root.iter()
        for key, value in element.attrib.items()
        if key == LINK or "url(#" in value
    ]


def _rewrite(element: ElementTree.Element, used: set[str], name: str) -> None:
    found: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "id":
            if value.startswith("mark-"):
                found["data-mark"] = value.removeprefix("mark-")
            elif value in used:
                found["id"] = f"{name}-{value}"
        elif key == LINK:
            found["href"] = f"#{name}-{value[1:]}"
        else:
            found[key] = _shorter(value.replace("url(#", f"url(#{name}-"), key)
    element.attrib = found
    if element.text is not None and not element.text.strip():
        element.text = None
    element.tail = None


def _shorter(value: str, key: str) -> str:
    """Numbers with two digits after the point, and letters in the page's font."""
    if key == "style":
        value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
        return re.sub(r"; stroke-linejoin: \w+|stroke-linejoin: \w+; ?", "", value)
    if key in {"d", "x", "y", "width", "height", "transform", "cx", "cy"}:
        return re.sub(r"-?\d+\.\d+", lambda match: f"{round(float(match[0]), 2):g}", re.sub(r"\s+", " ", value)).strip()
    return value

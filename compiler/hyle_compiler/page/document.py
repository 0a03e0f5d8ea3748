"""The page as a whole: head, key figures, sections, foot."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from hyle_compiler.page import sections
from hyle_compiler.page.elements import Numbers, escape

__all__ = ["render"]

SECTIONS = (
    ("warnings", "Warnings", sections.warnings),
    ("accuracy", "Accuracy over time", sections.accuracy),
    ("layers", "Layers", sections.layers),
    ("floor", "Tiles", sections.floor),
    ("cost", "Energy and time", sections.cost),
    ("budget", "Accuracy budget", sections.budget),
    ("adaptation", "Adaptation", sections.adaptation),
    ("device", "Measured on hardware", sections.device),
    ("digital", "What stays digital", sections.digital),
    ("basis", "What this rests on", sections.basis),
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Mapping[str, Any]) -> bytes:
    """One self-contained page, the same bytes for the same report.

    Args:
        report: What `report.json` holds; parts that are missing are left out.

    Returns:
        HTML in UTF-8, without scripts and without anything from outside.
    """
    numbers = Numbers(report)
    made = [(anchor, title, body) for anchor, title, make in SECTIONS if (body := make(report, numbers))]
    links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title, _ in made)
    title = escape(f"{report['model']} on {report['target']}")
    style = resources.files("hyle_compiler.page").joinpath("style.css").read_text(encoding="utf-8")
    parts = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>",
        '<a class="skip" href="#main">Skip to the figures</a>',
        f'<header>\n<p class="brow">hyle report</p>\n<h1>{escape(report["model"])} '
        f"<span>on {escape(report['target'])}</span></h1>\n<p>{escape(report['title'])}</p>",
        sections.key_figures(report, numbers),
        "</header>",
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        '<main id="main" tabindex="-1">',
        *(body for _, _, body in made),
        "</main>",
        sections.foot(report),
        "</body>\n</html>\n",
    )
    return "\n".join(parts).encode()

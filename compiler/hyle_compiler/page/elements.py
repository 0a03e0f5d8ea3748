"""Pieces of the page: numbers that name their place in `report.json`, tables, figures, sections."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from hyle_compiler.quantities import si

__all__ = ["Numbers", "bare", "escape", "figure", "percent", "section", "table"]


LONG = 24


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def percent(value: float, digits: int = 2) -> str:
    """A fraction in percent."""
    return f"{bare(100 * value, digits)}\N{NO-BREAK SPACE}%"


def bare(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point, and no minus before a zero."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0.0 else text.replace("-", "−")


class Numbers:
    """Numbers of the report as HTML; each element says where in `report.json` it stands and its exact value.

    Args:
        report: The report.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report

    def at(self, pointer: str) -> Any:
        """Value at a JSON pointer such as `/calibration/ages/0/mean`; None if there is none."""
        found: Any = self._report
        for part in pointer.strip("/").split("/"):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                return None
        return found

    def __call__(self, pointer: str, shown: str) -> str:
        """The number at a pointer, shown as `shown`."""
        return f'<data value="{escape(repr(self.at(pointer)))}" data-of="{escape(pointer)}">{escape(shown)}</data>'

    def percent(self, pointer: str, digits: int = 2) -> str:
        """A fraction in percent, a dash for None."""
        value = self.at(pointer)
        return self(pointer, "–" if value is None else percent(value, digits))

    def points(self, pointer: str) -> str:
        """A difference of fractions in points, a dash for None."""
        value = self.at(pointer)
        return self(pointer, "–" if value is None else bare(100 * value))

    def count(self, pointer: str) -> str:
        """A whole number, a dash for None."""
        value = self.at(pointer)
        return self(pointer, "–" if value is None else f"{value:,}")

    def si(self, pointer: str, unit: str) -> str:
        """A quantity with its unit, a dash for None."""
        value = self.at(pointer)
        return self(pointer, "–" if value is None else si(value, unit))

    def fixed(self, pointer: str, digits: int) -> str:
        """A number with so many digits after the point, a dash for None."""
        value = self.at(pointer)
        return self(pointer, "–" if value is None else bare(value, digits))


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where the page is narrow; cells are HTML, the first of a row heads it."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    kind = "scroll long" if len(rows) > LONG else "scroll"
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> str:
    """A chart with the sentence that says what it shows."""
    view = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{svg}</div>'
    return f"<figure>{view}<figcaption>{escape(caption)}</figcaption></figure>"


def section(anchor: str, title: str, *parts: str) -> str:
    """A section of the page with its heading."""
    inner = "\n".join(part for part in parts if part)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(title)}</h2>\n'
        f"{inner}\n</section>"
    )

"""The report that travels in the bundle: `report.json`, and `report.html` drawn from it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyle_bundle.manifest import Layer
from hyle_substrates.profile import Profile

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.durations import format_duration
from hyle_compiler.partition import Digital

WARN_POINTS = 2.0

__all__ = ["build_report", "render_html", "write_json"]


def build_report(
    *,
    name: str,
    profile: Profile,
    layers: Sequence[Layer],
    calibrated: Sequence[Calibrated],
    digital: Sequence[Digital],
    float_score: float,
    exact_score: float,
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Gather what the compiler found, as one JSON document; scores are fractions, times seconds, energies joules."""
    reads = {layer.name: layer.macs / (layer.rows * layer.cols) for layer in layers}
    rows: list[dict[str, Any]] = [
        {
            "name": layer.name,
            "op": layer.op,
            "rows": layer.rows,
            "cols": layer.cols,
            "tiles": len(layer.tiles),
            "copies": measured.row_copies * measured.col_copies,
            "macs": layer.macs,
            "range": layer.range_mode,
            "full_scale": None if measured.dynamic else measured.full_scale,
            "converter_error": measured.error,
            "latency_s": reads[layer.name] * profile.cost.mvm_latency_s,
            "energy_j": reads[layer.name] * len(layer.tiles) * profile.cost.mvm_energy_j,
        }
        for layer, measured in zip(layers, calibrated, strict=True)
    ]
    return {
        "model": name,
        "target": profile.name,
        "title": profile.title,
        "sources": list(profile.sources),
        "validity": profile.validity,
        "tiles": sum(len(layer.tiles) for layer in layers),
        "macs_on_physics": sum(_own_macs(layer, measured) for layer, measured in zip(layers, calibrated, strict=True)),
        "latency_s": sum(row["latency_s"] for row in rows) or None,
        "energy_j": sum(row["energy_j"] for row in rows) or None,
        "layers": rows,
        "digital": [{"node": d.node, "op": d.op_type, "reason": d.reason} for d in digital],
        "warnings": _warnings(float_score, evaluation),
        "calibration": {"float": float_score, "exact": exact_score, **evaluation},
    }


def _own_macs(layer: Layer, measured: Calibrated) -> int:
    """Multiply-accumulates with a weight other than zero; further replicas of a layer do no work of the model's own."""
    if re.search(r"_copy[1-9]$", layer.name):
        return 0
    matrix = measured.placed.layer.matrix
    nonzero = np.count_nonzero(matrix) if measured.nonzero is None else measured.nonzero
    return round(layer.macs * nonzero / matrix.size)


def _warnings(float_score: float, evaluation: Mapping[str, Any]) -> list[str]:
    """What a person should know before relying on this bundle."""
    found = []
    for age in evaluation["ages"]:
        lost = 100 * (float_score - age["mean"])
        if lost > WARN_POINTS:
            when = format_duration(age["age_s"])
            found.append(
                f"After {when} the twin loses {lost:.1f} points of the float model's {100 * float_score:.1f} %: "
                "allow more --copies, or choose another target."
            )
    return found


def write_json(report: Mapping[str, Any]) -> bytes:
    """The report's one form."""
    return (json.dumps(report, indent=2, sort_keys=True) + "\n").encode()


def render_html(report: Mapping[str, Any]) -> bytes:
    """One self-contained page that shows the report."""
    accuracy = report["calibration"]
    ages = [
        [format_duration(a["age_s"]), f"{100 * a['mean']:.2f} %", f"{100 * a['std']:.2f}"] for a in accuracy["ages"]
    ]
    layers = [
        [
            r["name"],
            r["op"],
            f"{r['rows']} × {r['cols']}",
            r["tiles"],
            f"{r['macs']:,}",
            r["range"],
            f"{100 * r['converter_error']:.2f} %",
        ]
        for r in report["layers"]
    ]
    digital = [[d["node"], d["op"], d["reason"]] for d in report["digital"]]
    parts = [
        f"<h1>{html.escape(report['model'])} on {html.escape(report['target'])}</h1>",
        f"<p>{html.escape(report['title'])}. {report['tiles']} tiles, {report['macs_on_physics']:,} multiply-"
        "accumulates an inference on physics.</p>",
        f"<h2>Accuracy on {accuracy['samples']} calibration samples ({html.escape(accuracy['metric'])})</h2>",
        f"<p>Float model {100 * accuracy['float']:.2f} %, exact matter {100 * accuracy['exact']:.2f} %.</p>",
        _table(["age", "mean over instances", "std, points"], ages),
        "<h2>Layers on physics</h2>",
        _table(["layer", "operator", "rows × columns", "tiles", "MACs", "input range", "converter error"], layers),
    ]
    if digital:
        parts += ["<h2>Operators with weights that stay digital</h2>", _table(["node", "operator", "because"], digital)]
    parts += ["<h2>Sources</h2>", f"<p>{html.escape(report['validity'])}</p><ul>"]
    parts += [f"<li>{html.escape(source)}</li>" for source in report["sources"]] + ["</ul>"]
    style = (
        ":root{color-scheme:light dark}"
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}th,td{padding:.3rem .8rem;border-bottom:1px solid #8886;text-align:right}"
        "th:first-child,td:first-child{text-align:left}"
    )
    title = html.escape(f"{report['model']} on {report['target']}")
    head = f'<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>'
    return ('<!doctype html><html lang="en">' + head + "<body>" + "\n".join(parts) + "</body></html>\n").encode()


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(str(cell))}</th>" for cell in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

"""The sections of the report; each gives HTML, or nothing where the report has nothing to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyle_compiler.durations import format_duration
from hyle_compiler.page import charts
from hyle_compiler.page.elements import Numbers, escape, figure, percent, section, table

__all__ = [
    "accuracy",
    "adaptation",
    "basis",
    "budget",
    "cost",
    "device",
    "digital",
    "floor",
    "foot",
    "key_figures",
    "layers",
    "warnings",
]

Report = Mapping[str, Any]


def key_figures(report: Report, numbers: Numbers) -> str:
    """What one looks for first."""
    last = len(report["calibration"]["ages"]) - 1
    age = report["calibration"]["ages"][last]
    when = f"after {format_duration(age['age_s'])}" if age["age_s"] else "fresh"
    metric = escape(report["calibration"]["metric"])
    cards = [
        (
            f"{metric} {when}",
            f"{numbers.percent(f'/calibration/ages/{last}/mean', 1)}",
            f"± {numbers.points(f'/calibration/ages/{last}/std')} between instances; float model "
            f"{numbers.percent('/calibration/float', 1)}",
        ),
        (
            "on physics",
            f"{len(report['layers'])} layers",
            f"{numbers.count('/macs_on_physics')} multiply-accumulates an inference",
        ),
        ("tiles", numbers.count("/tiles"), _tile_words(report, numbers)),
    ]
    if numbers.at("/cost/energy_j"):
        note = f"matrix products alone; digital {numbers.si('/cost/digital/energy_j', 'J')}"
        cards.append(("energy an inference", numbers.si("/cost/energy_j", "J"), note))
    if numbers.at("/cost/latency_s"):
        note = f"matrix products alone; digital {numbers.si('/cost/digital/latency_s', 's')}"
        cards.append(("time an inference", numbers.si("/cost/latency_s", "s"), note))
    inner = "".join(
        f"<div><dt>{name}</dt><dd><b>{value}</b> <span>{note}</span></dd></div>" for name, value, note in cards
    )
    return f'<dl class="key">{inner}</dl>'


def _tile_words(report: Report, numbers: Numbers) -> str:
    plan = report.get("floor")
    if not plan:
        return "in use"
    size = f"of {numbers.count('/floor/rows')} × {numbers.count('/floor/cols')}"
    if not plan["tiles_on_chip"]:
        return size
    return f"{size}; the chip has {numbers.count('/floor/tiles_on_chip')}"


def warnings(report: Report, numbers: Numbers) -> str:
    """What to know before relying on the bundle, with what to do."""
    found = report["warnings"]
    if not found:
        return section("warnings", "Warnings", '<p class="good">None: the twin keeps what the float model can do.</p>')
    items = "\n".join(
        f"<li><strong>{escape(one['message'])}</strong> <span>{escape(one['remedy'])}</span></li>" for one in found
    )
    return section("warnings", "Warnings", f'<ul class="warnings">{items}</ul>')


def accuracy(report: Report, numbers: Numbers) -> str:
    """Score over age and instances."""
    found = report["calibration"]
    instances = max(len(age["scores"]) for age in found["ages"])
    what = "the samples' labels" if found["metric"] == "top-1" else "the float model's own choice"
    lead = (
        f"<p>{escape(found['metric'].capitalize())} against {what}, on {numbers.count('/calibration/samples')} "
        f"calibration samples and {instances} simulated device {'instance' if instances == 1 else 'instances'}. "
        f"The float model has {numbers.percent('/calibration/float')}, matter that holds its targets exactly "
        f"{numbers.percent('/calibration/exact')}. <code>hyle evaluate</code> measures on samples that calibration "
        "never saw.</p>"
    )
    rows = []
    for i, age in enumerate(found["ages"]):
        at = f"/calibration/ages/{i}"
        scores = [numbers.percent(f"{at}/scores/{k}", 2) for k in range(len(age["scores"]))]
        worst = min(range(len(scores)), key=lambda k, a=age: a["scores"][k])  # type: ignore[misc]
        best = max(range(len(scores)), key=lambda k, a=age: a["scores"][k])  # type: ignore[misc]
        name = format_duration(age["age_s"]) if age["age_s"] else "fresh"
        rows.append(
            [
                escape(name),
                numbers.percent(f"{at}/mean"),
                numbers.points(f"{at}/std"),
                scores[worst],
                scores[best],
                numbers.fixed(f"{at}/residual", 3),
            ]
        )
    columns = ["age", "mean", "± points", "worst instance", "best instance", "self-test residual"]
    caption = "Dots are device instances, the line their mean, the band one standard deviation."
    return section(
        "accuracy",
        "Accuracy over time",
        lead,
        figure(charts.accuracy(report), caption),
        table("Accuracy over time", columns, rows),
    )


def layers(report: Report, numbers: Numbers) -> str:
    """Every layer on physics: shape, place, noise and weight in the answers."""
    rows_of = report["layers"]
    if not rows_of or "snr_db" not in rows_of[0]:
        return ""
    ages = [age["age_s"] for age in report["calibration"]["ages"]]
    lead = (
        "<p>Signal over noise compares what each layer's exact answers vary by, about the mean of each of its columns, "
        "with what the corrected device's differ by from them, on vectors from the calibration samples (mean of the "
        "first two instances). Sensitivity is how far the model's answers move, "
        "relative to their size, when that layer alone is on physics.</p>"
    )
    rows = [
        [
            f"<b>{i + 1}</b> {escape(layer['name'])}",
            escape(layer["op"]),
            f"{numbers.count(f'/layers/{i}/rows')} × {numbers.count(f'/layers/{i}/cols')}",
            numbers.count(f"/layers/{i}/macs"),
            *(numbers.fixed(f"/layers/{i}/snr_db/{k}", 1) for k in range(len(ages))),
            numbers.percent(f"/layers/{i}/sensitivity", 1),
        ]
        for i, layer in enumerate(rows_of)
    ]
    columns = ["layer", "kind", "rows × columns", "MACs"]
    columns += [f"dB after {format_duration(age)}" if age else "dB fresh" for age in ages] + ["sensitivity"]
    few = len(rows_of) <= charts.MOST_ROWS
    caption = "Signal over noise: further to the right is better. Sensitivity: further to the right matters more."
    caption = caption if few else "Layer by layer, in the order of the table."
    return section(
        "layers", "Layers", lead, _quality_figure(report, caption), table("Layers on physics", columns, rows)
    )


def _quality_figure(report: Report, caption: str) -> str:
    heard = any(value is not None for layer in report["layers"] for value in layer["snr_db"])
    return figure(charts.quality(report), caption) if heard else "<p>This target has no noise.</p>"


def floor(report: Report, numbers: Numbers) -> str:
    """The tiles and whose they are."""
    plan = report.get("floor")
    if not plan or not plan["tiles"]:
        return ""
    svg, each = charts.floor(report)
    utilisation = [layer["utilisation"] * layer["tiles"] for layer in report["layers"]]
    filled = sum(utilisation) / max(1, report["tiles"])
    where = f"of the chip's {plan['tiles_on_chip']:,}" if plan["tiles_on_chip"] else "in use"
    lead = (
        f"<p>{numbers.count('/tiles')} tiles {where}, {percent(filled, 0)} of their crosspoints filled with weights "
        "and copies of them.</p>"
    )
    square = "One square is one tile" if each == 1 else f"One square stands for {each} tiles"
    caption = f"{square}; its number is the layer's, its coloured part the rows and columns in use."
    rows = [
        [
            f"<b>{i + 1}</b> {escape(layer['name'])}",
            numbers.count(f"/layers/{i}/tiles"),
            numbers.count(f"/layers/{i}/copies"),
            numbers.percent(f"/layers/{i}/utilisation", 1),
            escape(layer["range"]),
        ]
        for i, layer in enumerate(report["layers"])
    ]
    columns = ["layer", "tiles", "copies", "crosspoints filled", "input range"]
    return section("floor", "Tiles", lead, figure(svg, caption), table("Where the layers lie", columns, rows))


def cost(report: Report, numbers: Numbers) -> str:
    """Energy and time of the matrix products, by the profile's constants, beside digital hardware."""
    found = report.get("cost")
    chart = charts.cost(report)
    if not found or not chart:
        text = "<p>The sources of this target's profile give neither energy nor time, and none is made up here.</p>"
        return section("cost", "Energy and time", text)
    lead = (
        "<p>Of the matrix products alone, from the profile's constants, beside an estimate of the same products on "
        f"digital hardware: {escape(found['digital']['name'])} ({escape(found['digital']['source'])}). Converters are "
        "included as far as the profile's sources include them; digital operators and moving data are not.</p>"
    )
    rows = [
        [
            f"<b>{i + 1}</b> {escape(layer['name'])}",
            *(numbers.si(f"/cost/layers/{i}/{key}", unit) for key, unit in COST_COLUMNS),
        ]
        for i, layer in enumerate(found["layers"])
    ]
    whole = [("energy_j", "J"), ("digital/energy_j", "J"), ("latency_s", "s"), ("digital/latency_s", "s")]
    rows.append(["<b>whole model</b>", *(numbers.si(f"/cost/{key}", unit) for key, unit in whole)])
    columns = ["layer", "energy", "digital energy", "time", "digital time"]
    more = [
        [escape(word), value]
        for key, word, unit in COST_MORE
        if found.get(key)
        for value in [numbers.si(f"/cost/{key}", unit) if unit else numbers.count(f"/cost/{key}")]
    ]
    return section(
        "cost",
        "Energy and time",
        lead,
        figure(chart, "An inference, layer by layer; hollow bars are the digital estimate."),
        table("Energy and time an inference", columns, rows),
        table("The chip as a whole", ["what", ""], more),
    )


COST_COLUMNS = (("energy_j", "J"), ("digital_energy_j", "J"), ("latency_s", "s"), ("digital_latency_s", "s"))
COST_MORE = (
    ("devices", "devices", ""),
    ("tiles_a_device", "tiles a device", ""),
    ("reloads", "tiles written anew for every inference", ""),
    ("pipelined_per_s", "inferences a second, layers in a pipeline", "/s"),
    ("program_s", "time to program the model", "s"),
    ("peak_ops_per_s", "peak of the target", "op/s"),
    ("peak_ops_per_j", "peak of the target for its energy", "op/J"),
)


def device(report: Report, numbers: Numbers) -> str:
    """The attached device, and black boxes, that the bundle was measured on."""
    parts = [
        table(caption, ["what", ""], [[escape(key), escape(_words(value))] for key, value in entries])
        for caption, entries in _hardware(report)
    ]
    return section("device", "Measured on hardware", *parts) if parts else ""


def _hardware(report: Report) -> list[tuple[str, list[tuple[str, object]]]]:
    found: list[tuple[str, list[tuple[str, object]]]] = []
    if isinstance(told := report.get("device"), Mapping):
        found.append(("Attached device", [(key, value) for key, value in told.items() if _short(value)]))
    boxes = report.get("black_boxes") or []
    for number, box in enumerate(boxes if isinstance(boxes, list) else [boxes], 1):
        if isinstance(box, Mapping):
            found.append((f"Black box {number}", [(key, value) for key, value in box.items() if _short(value)]))
    return found


def _short(value: object) -> bool:
    """Whether a value can stand in one cell."""
    return bool(value != []) and not isinstance(value, Mapping) and len(str(value)) < 300


def budget(report: Report, numbers: Numbers) -> str:
    """What share of the work can be on physics at what loss."""
    found = report.get("budget")
    if not found:
        text = (
            "<p>No budget was asked for: every layer that fits is on physics. <code>hyle compile --max-drop 1%</code> "
            "measures how much can be there at what loss.</p>"
        )
        return section("budget", "Accuracy budget", text)
    ages = ", ".join(format_duration(age) for age in found["ages_s"])
    lead = (
        f"<p>At most {numbers.points('/budget/max_drop')} points may be lost after {escape(ages)}, on "
        f"{numbers.count('/budget/instances')} instances: "
        f"{'kept' if found['kept'] else '<strong>not kept by any plan</strong>'}.</p>"
    )
    rows = []
    for i, point in enumerate(found["frontier"]):
        at = f"/budget/frontier/{i}"
        rows.append(
            [
                "chosen" if point == found["chosen"] else "tried",
                numbers.percent(f"{at}/share_of_macs", 1),
                f"{numbers.points(f'{at}/drop')} ± {numbers.points(f'{at}/standard_error')}",
                numbers.count(f"{at}/tiles"),
                numbers.count(f"{at}/replicas"),
                "yes" if point.get("clipped") else "no",
                escape(", ".join(point["digital"]) or "nothing"),
            ]
        )
    columns = ["plan", "MACs on physics", "points lost", "tiles", "sets of tiles", "weights clipped", "digital"]
    chart = figure(charts.frontier(report), "Every plan that was measured; bars are standard errors.")
    return section("budget", "Accuracy budget", lead, chart, table("Plans that were measured", columns, rows))


def adaptation(report: Report, numbers: Numbers) -> str:
    """How the model learned to live in its matter."""
    found = report.get("adaptation")
    if not found:
        return ""
    rows = [[escape(key), escape(_words(value))] for key, value in found.items() if key != "notes"]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.get("notes", []))
    return section(
        "adaptation", "Adaptation", table("Adaptation", ["what", ""], rows), f"<ul>{notes}</ul>" if notes else ""
    )


def _words(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_words, value)) if isinstance(value, (list, tuple)) else str(value)


def digital(report: Report, numbers: Numbers) -> str:
    """Operators with weights that are not on physics, with the reason."""
    rows = [[escape(one["node"]), escape(one["op"]), escape(one["reason"])] for one in report["digital"]]
    if not rows:
        return ""
    return section(
        "digital", "What stays digital", table("Operators that stay digital", ["node", "operator", "because"], rows)
    )


def basis(report: Report, numbers: Numbers) -> str:
    """Validity and sources of the target's model."""
    sources = "".join(f"<li>{escape(source)}</li>" for source in report["sources"])
    return section(
        "basis",
        "What this rests on",
        "<p>Every figure here is of the digital twin, not of a chip.</p>",
        f"<p>{escape(report['validity'])}</p><ul>{sources}</ul>",
    )


def foot(report: Report) -> str:
    """How the bundle was made, so that it can be made again."""
    made = report.get("made", {})
    words = [
        f"version {report['version']}" if "version" in report else "",
        made.get("compiler", ""),
        f"seed {made['seed']}" if "seed" in made else "",
        f"correction {made['compensation']}" if "compensation" in made else "",
        f"model sha256 {made['source_sha256'][:16]}…" if "source_sha256" in made else "",
        "the same numbers stand in report.json",
    ]
    return f"<footer><p>{' · '.join(escape(word) for word in words if word)}</p></footer>"

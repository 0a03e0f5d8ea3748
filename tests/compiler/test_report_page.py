"""The report as a page: the numbers of `report.json`, whatever is in it, in one file that needs nothing else."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hyle_bundle import open_bundle
from hyle_compiler.page import render
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

DIGITS = Path(__file__).resolve().parents[1] / "data" / "digits_mlp"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("report") / "m.hyle"
    options = Options(name="digits", instances=2, max_drop=0.01)
    compile_model(DIGITS / "model.onnx", DIGITS / "calib.npz", *find_profile("pcm-hermes"), out, options)
    with open_bundle(out) as bundle:
        found: dict[str, Any] = json.loads(bytes(bundle.read("report.json")))
        assert render(found) == bytes(bundle.read("report.html"))
    return found


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def draw(report: dict[str, Any]) -> Page:
    return Page(render(report).decode())


def many_layers(report: dict[str, Any], count: int) -> dict[str, Any]:
    big = copy.deepcopy(report)
    big["layers"] = [{**copy.deepcopy(report["layers"][i % 3]), "name": f"block.{i}.projection"} for i in range(count)]
    big["cost"]["layers"] = [{**report["cost"]["layers"][i % 3], "name": f"block.{i}.projection"} for i in range(count)]
    big["floor"]["tiles"] = [{"layer": i, "rows": 256, "cols": 256, "count": 40} for i in range(count)]
    return big


def test_every_layer_has_its_noise_and_its_weight_in_the_answers(report: dict[str, Any]) -> None:
    for layer in report["layers"]:
        fresh, day, year = layer["snr_db"]
        assert 0.0 < year < day < fresh < 60.0
        assert 0.0 < layer["sensitivity"] < 1.0
        assert 0.0 < layer["utilisation"] <= 1.0
    together = report["calibration"]["ages"][1]["residual"]
    alone = [layer["sensitivity"] for layer in report["layers"]]
    assert max(alone) < 2 * together, "one layer alone moves the answers about as far as all of them, not farther"


def test_perfect_matter_has_no_noise_to_show(tmp_path: Path) -> None:
    done = compile_model(
        DIGITS / "model.onnx", DIGITS / "calib.npz", *find_profile("ideal"), tmp_path / "m.hyle", Options()
    )
    assert all(layer["snr_db"] == [None] and layer["sensitivity"] < 1e-5 for layer in done.report["layers"])
    assert "This target has no noise" in render(done.report).decode()


def test_the_same_report_gives_the_same_bytes_and_asks_for_nothing(report: dict[str, Any]) -> None:
    text = render(report).decode()
    assert text == render(copy.deepcopy(report)).decode()
    page = Page(text)
    assert not page.all("script")
    assert all(value.startswith(("#", "data:,")) for _, a in page.tags for k in ("href", "src") if (value := a.get(k)))
    assert "url(http" not in text
    assert "@import" not in text
    assert len(text) < 120_000


def test_identifiers_are_unique_and_every_reference_leads_somewhere(report: dict[str, Any]) -> None:
    page = draw(report)
    known = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert sorted(known) == sorted(set(known))
    wanted = {str(a["href"])[1:] for _, a in page.tags if str(a.get("href", "")).startswith("#")}
    wanted |= {str(a["aria-labelledby"]) for _, a in page.tags if "aria-labelledby" in a}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", render(report).decode()))
    assert wanted <= set(known)


def test_every_chart_has_a_name_and_a_table_with_its_numbers(report: dict[str, Any]) -> None:
    page = draw(report)
    charts = [attributes for attributes in page.all("svg") if attributes.get("class") == "chart"]
    assert len(charts) == 5
    assert all(chart["role"] == "img" and chart["aria-labelledby"] for chart in charts)
    assert len(page.all("table")) == len(page.all("caption")) == 6
    assert all(cell.get("scope") in {"col", "row"} for cell in page.all("th"))
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == len(page.all("footer")) == 1


def test_names_from_the_model_stay_text(report: dict[str, Any]) -> None:
    hostile = copy.deepcopy(report)
    word = "</script><script>alert(1)</script><img src=x onerror=alert(1)>$x^2$"
    hostile["model"] = hostile["title"] = hostile["layers"][0]["name"] = word
    hostile["digital"] = [{"node": word, "op": word, "reason": word}]
    hostile["warnings"] = [{"message": word, "remedy": word}]
    page = draw(hostile)
    assert not page.all("script")
    assert not page.all("img")


@pytest.mark.parametrize("missing", ["budget", "cost", "floor", "made", "version"])
def test_what_is_missing_is_left_out(report: dict[str, Any], missing: str) -> None:
    assert draw({key: value for key, value in report.items() if key != missing}).all("main")


def test_a_target_without_costs_has_none_made_up(report: dict[str, Any]) -> None:
    free = copy.deepcopy(report) | {"energy_j": None, "latency_s": None}
    for layer in free["cost"]["layers"]:
        layer["energy_j"] = layer["latency_s"] = None
    assert "none is made up here" in render(free).decode()


def test_hundreds_of_layers_and_tiles_stay_one_page(report: dict[str, Any]) -> None:
    big = many_layers(report, 150)
    text = render(big).decode()
    assert "One square stands for 25 tiles" in text
    assert text.count("block.149.projection") == 3
    assert len(text) < 800_000


def test_one_layer_one_age_and_one_instance_are_enough(report: dict[str, Any]) -> None:
    small = copy.deepcopy(report)
    small["layers"] = small["layers"][:1]
    small["layers"][0] |= {"snr_db": [31.0], "sensitivity": None}
    small["cost"]["layers"] = small["cost"]["layers"][:1]
    small["floor"]["tiles"] = small["floor"]["tiles"][:1]
    small["calibration"]["ages"] = [small["calibration"]["ages"][0] | {"scores": [1.0], "std": 0.0, "mean": 1.0}]
    assert len(draw(small).all("svg")) >= 5

"""The report in a real browser: it renders, asks for nothing, shows the numbers of `report.json`, and prints."""

from __future__ import annotations

import ast
import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hyle_bundle import open_bundle
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or its driver is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DIGITS = Path(__file__).resolve().parents[1] / "data" / "digits_mlp"
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900")
READABLE = 4.5  # WCAG 2.2, 1.4.3: contrast of text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("page")
    options = Options(name="digits", instances=2, max_drop=0.01)
    profile, text = find_profile("pcm-hermes")
    compile_model(DIGITS / "model.onnx", DIGITS / "calib.npz", profile, text, folder / "m.hyle", options)
    with open_bundle(folder / "m.hyle") as bundle:
        (folder / "report.html").write_bytes(bytes(bundle.read("report.html")))
        return folder / "report.html", json.loads(bytes(bundle.read("report.json")))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium: Any, made: tuple[Path, dict[str, Any]]) -> Any:
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get(made[0].as_uri())
    return chromium


def at(report: Any, pointer: str) -> Any:
    for part in pointer.strip("/").split("/"):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def test_it_renders_without_a_word_in_the_console_or_on_the_network(page: Any) -> None:
    assert page.title == "digits on pcm-hermes"
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url.partition(":")[0] for url in asked] in (["file"], ["file", "data"])
    sizes = page.execute_script(
        "return [...document.querySelectorAll('svg.chart')].map(s => [s.getBBox().width, s.getBBox().height])"
    )
    assert len(sizes) == 5
    assert all(width > 100 and height > 20 for width, height in sizes)


def test_every_number_is_that_of_report_json(page: Any, made: tuple[Path, dict[str, Any]]) -> None:
    shown = page.execute_script(
        "return [...document.querySelectorAll('data')].map(d => [d.dataset.of, d.value, d.textContent])"
    )
    assert len(shown) > 60
    for pointer, value, text in shown:
        wanted = at(made[1], pointer)
        assert ast.literal_eval(value) == wanted, pointer
        if wanted is None:
            assert text == "–"
            continue
        number = float(text.replace(",", "").replace("−", "-").partition("\N{NO-BREAK SPACE}")[0])
        digits = len(text.partition("\N{NO-BREAK SPACE}")[0].partition(".")[2])
        scale = 100 if "%" in text or pointer.endswith(("/std", "/drop", "/standard_error", "/max_drop")) else 1
        unit = text.partition("\N{NO-BREAK SPACE}")[2]
        prefix = {"n": 1e9, "µ": 1e6, "m": 1e3, "p": 1e12, "k": 1e-3, "M": 1e-6, "G": 1e-9, "T": 1e-12}
        prefix = prefix.get(unit[:1] if len(unit) > 1 and unit not in {"op/s", "op/J"} else "", 1)
        half = 0.5 * 10.0**-digits if digits or "," in text or prefix == 1 else 0.5
        assert abs(number - wanted * scale * prefix) <= half * 1.001, (pointer, text, wanted)


def test_the_dots_of_the_chart_stand_where_the_numbers_are(page: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """Heights of dots against values, by the heights of the axis' own labels; half a pixel of a 250-pixel axis."""
    labels, dots = page.execute_script(
        """
        const svg = document.querySelector('#accuracy svg.chart');
        const middle = e => { const b = e.getBoundingClientRect(); return b.top + b.height / 2; };
        const marks = [...svg.querySelectorAll('[data-mark=accuracy-mean] use')].map(middle);
        const texts = [...svg.querySelectorAll('text')].filter(t => /^[0-9.]+$/.test(t.textContent));
        return [texts.map(t => [parseFloat(t.textContent), middle(t)]), marks];
        """
    )
    ages = made[1]["calibration"]["ages"]
    assert len(dots) == len(ages)
    (low, low_at), (high, high_at) = labels[0], labels[-1]
    for dot, age in zip(dots, ages, strict=True):
        value = low + (dot - low_at) * (high - low) / (high_at - low_at)
        tolerance = abs((high - low) / (high_at - low_at))
        assert value == pytest.approx(100 * age["mean"], abs=tolerance)


def test_the_keyboard_reaches_every_link_and_table(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
    wanted = page.execute_script("return document.querySelectorAll('a[href], [tabindex=\"0\"]').length")
    seen = []
    for _ in range(wanted):
        ActionChains(page).send_keys(Keys.TAB).perform()
        seen.append(
            page.execute_script(
                """
                const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect();
                return [e.tagName, e.getAttribute('href') || e.getAttribute('aria-label'), s.outlineStyle,
                        b.bottom > 0 && b.top < innerHeight];
                """
            )
        )
    assert seen[0][:2] == ["A", "#main"]
    assert len({(tag, name) for tag, name, _, _ in seen}) == wanted
    assert [entry for entry in seen if entry[2:] != ["solid", True]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(page: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    pairs = page.execute_script(
        """
        const style = getComputedStyle(document.documentElement);
        const probe = document.createElement('i'); document.body.append(probe);
        const rgb = name => { probe.style.color = style.getPropertyValue(name);
                              return getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number).slice(0, 3); };
        const found = [];
        for (const text of ['--ink', '--soft', '--accent', '--bad', '--good'])
            for (const back of ['--back', '--panel']) found.push([text, back, rgb(text), rgb(back)]);
        found.push(['--ink', '--bad-back', rgb('--ink'), rgb('--bad-back')]);
        probe.remove();
        return found;
        """
    )
    for text, back, front, behind in pairs:
        assert contrast(front, behind) >= READABLE, (scheme, text, back)
    dark = sum(pairs[0][3]) < 3 * 128
    assert dark == (scheme == "dark")
    ink = page.execute_script("return getComputedStyle(document.querySelector('#accuracy svg.chart text')).fill")
    assert ink != "rgb(0, 0, 162)", "the charts take their colours from the page"


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio of two sRGB colours by WCAG 2.2."""

    def light(colour: list[float]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_narrow_screen_scrolls_inside_its_tables_only(page: Any) -> None:
    narrow = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360


def test_it_prints_to_pdf_whole(page: Any) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    data = base64.b64decode(printed["data"])
    assert data.startswith(b"%PDF-")
    assert 1 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 8
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    clipped = page.execute_script(
        """
        const areas = [...document.querySelectorAll('.scroll')];
        return areas.filter(s => getComputedStyle(s).overflowX !== 'visible').length;
        """
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert clipped == 0

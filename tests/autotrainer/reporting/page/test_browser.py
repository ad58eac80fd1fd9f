"""The report as people see and use it: in headless Chromium, each time with a picture in the test's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotrainer.reporting.report import Report

pytestmark = pytest.mark.browser

Open = Callable[..., Any]

CHARTS = ("curves", "layers", "ends")


def _option(page: Any, chart: str) -> Any:
    """Return what a chart shows, as its library has it."""
    script = f"JSON.stringify(echarts.getInstanceByDom(document.getElementById('{chart}')).getOption())"
    return json.loads(page.evaluate(script))


def _is_drawn(page: Any, chart: str) -> bool:
    """Return whether a chart has pixels of more than a few colors."""
    count = """(id) => {
      const canvas = document.querySelector(`#${id} canvas`), {width, height} = canvas;
      const bytes = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      const pixels = new Uint32Array(bytes.buffer).filter((pixel) => pixel >>> 24 > 200);
      return new Set(pixels).size;
    }"""
    return int(page.evaluate(count, chart)) > 5


def _overflow(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("kind", ["watched", "managed"])
def test_everything_is_drawn_without_overflow(
    reports: SimpleNamespace, open_report: Open, kind: str, width: int, scheme: str
) -> None:
    shown = open_report(getattr(reports, kind)(), width, color_scheme=scheme)
    assert all(_is_drawn(shown.page, chart) for chart in (*CHARTS, *(["attempts"] if kind == "managed" else [])))
    assert _overflow(shown.page) <= 0
    background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")
    shown.take()


@pytest.mark.parametrize(
    ("name", "steps", "count", "options", "charts"),
    [
        ("healthy", 40, 0, {}, CHARTS),
        ("one step", 1, 0, {"epochs": 0}, CHARTS),
        ("forty findings", 1000, 40, {"epochs": 20}, CHARTS),
        ("long names", 40, 3, {"name": "encoder." * 20 + "layers.{}.a_projection_with_quite_a_name"}, CHARTS),
        ("deep", 200, 3, {"layers": 300}, CHARTS),
    ],
)
def test_states_that_a_run_can_be_in(
    reports: SimpleNamespace, open_report: Open, name: str, steps: int, count: int, options: dict[str, Any],
    charts: tuple[str, ...],
) -> None:  # fmt: skip
    for width in (1000, 390):
        shown = open_report(reports.watched(steps, count, **options), width)
        assert all(_is_drawn(shown.page, chart) for chart in charts), name
        assert _overflow(shown.page) <= 0
        shown.take(f"-{name}-{width}")


@pytest.mark.parametrize("width", [1000, 390])
def test_a_run_without_steps_says_so(reports: SimpleNamespace, open_report: Open, width: int) -> None:
    shown = open_report(Report.of_run([], *reports.history(0, epochs=0)), width)
    assert shown.page.locator("h1").inner_text() == "Nothing measured"
    assert shown.page.locator("canvas").count() == 0
    assert "Not measured: loss." in shown.page.locator("main").inner_text()
    shown.take()


def test_what_is_wrong_stands_on_the_first_screen(reports: SimpleNamespace, open_report: Open) -> None:
    page = open_report(reports.managed()).page
    for heading in ("What was wrong", "Since when", "Why", "What to do", "Training curves"):
        box = page.get_by_role("heading", name=heading, exact=True).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800, heading


def test_curves_switch_between_groups_axes_and_scales(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.watched())
    page, controls = shown.page, shown.page.locator("#curves-controls")
    option = _option(page, "curves")
    assert [s["name"] for s in option["series"]] == ["training loss", "validation loss", "findings"]
    assert option["xAxis"][1]["name"] == "step"
    assert option["yAxis"][0]["name"] == "loss (CrossEntropyLoss)"
    assert option["yAxis"][0]["type"] == "value"
    controls.get_by_label("logarithmic").check()
    assert _option(page, "curves")["yAxis"][0]["type"] == "log"
    controls.get_by_label("over").select_option("epochs")
    option = _option(page, "curves")
    assert option["xAxis"][1]["name"] == "epochs done"
    assert option["series"][1]["data"] == [[1, 1], [2, 0.5]], "values of epochs stand at the end of theirs"
    controls.get_by_label("Show").select_option("gradient norm")
    assert _option(page, "curves")["series"][0]["name"] == "gradient norm"
    shown.take()


def test_findings_span_from_where_they_began_to_where_they_ended(reports: SimpleNamespace, open_report: Open) -> None:
    report = reports.watched(40, 4)
    page = open_report(report).page
    bars = _option(page, "curves")["series"][-1]["data"]
    spans = [(f.step, 39 if f.resolved_step is None else f.resolved_step) for f in report.findings]
    assert [tuple(bar[1:]) for bar in bars] == spans
    page.locator("#curves-controls").get_by_label("over").select_option("epochs")
    bars = _option(page, "curves")["series"][-1]["data"]
    assert [bar[1:] for bar in bars] == [[pytest.approx((step + 1) / 20) for step in span] for span in spans]


def test_heat_map_shows_each_statistic(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.watched())
    page, choice = shown.page, shown.page.locator("#layers-controls").get_by_label("Show")
    assert choice.locator("option").all_inner_texts() == ["gradient norm", "update ratio", "dead units"]
    scaled, others = (s["data"] for s in _option(page, "layers")["series"])
    assert len(scaled) == 6 * 40 - 1
    assert scaled[0] == [0, 0, -6, 1e-6], "the exponent of a gradient norm"
    assert [other["value"][:2] for other in others] == [[39, 5]], "the one that is not finite"
    choice.select_option("update ratio")
    scaled, others = (s["data"] for s in _option(page, "layers")["series"])
    assert (len(scaled), len(others)) == (5 * 40, 40), "those that are exactly 0 are not on the scale"
    choice.select_option("dead units")
    assert _option(page, "layers")["visualMap"][0]["max"] == 1
    shown.take()


def test_tables_hold_what_charts_show(reports: SimpleNamespace, open_report: Open) -> None:
    page = open_report(reports.watched()).page
    for chart in CHARTS:
        page.locator(f"#{chart}-below summary").click()
    assert page.locator("#curves-below tbody tr").count() == 42
    assert page.locator("#layers-below tbody tr").count() == 6
    assert page.locator("#ends-below tbody tr").first.inner_text().split() == ["block.0.fc", "1", "40"]


def test_code_is_copied(reports: SimpleNamespace, open_report: Open) -> None:
    report = reports.managed()
    page = open_report(report, permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(report.outcome.patch_steps[0].code)
    assert page.get_by_role("status").inner_text() == "Copied to the clipboard"


def test_findings_are_filtered_and_opened_by_links(reports: SimpleNamespace, open_report: Open) -> None:
    page = open_report(reports.watched(40, 9)).page
    errors = page.get_by_role("button", name="error")
    shown = page.locator("details.finding:visible")
    before = shown.count()
    errors.click()
    assert errors.get_attribute("aria-pressed") == "false"
    assert 0 < shown.count() < before
    link = page.locator("a.node").nth(2)
    link.click()
    target = page.locator(str(link.get_attribute("href")))
    assert target.is_visible()
    assert target.get_attribute("open") is not None


def test_all_can_be_done_with_the_keyboard(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.managed())
    page, reached = shown.page, []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.className || e.tagName)(document.activeElement)"))
        if reached[-1] == "curves":
            spoken = []
            for key in ("ArrowRight", "ArrowRight", "End"):
                page.keyboard.press(key)
                spoken.append(page.get_by_role("status").inner_text())
            shown.take()
    assert reached[0] == "skip"
    assert {"curves", "layers", "ends", "attempts", "copy", "SELECT", "INPUT", "SUMMARY"} <= set(reached)
    assert len(set(spoken)) == 3
    assert all("training loss (original)" in words for words in spoken)


def test_names_that_attack_the_page_stay_text(reports: SimpleNamespace, open_report: Open) -> None:
    attack = reports.hostile.replace("{", "{{").replace("}", "}}") + "{}"
    report = Report.of_run(reports.findings(4, 40, attack), *reports.history(40, name=attack))
    shown = open_report(report)
    page = shown.page
    assert page.locator("img").count() == 0
    for chart in CHARTS:
        page.locator(f"#{chart}-below summary").click()
        page.locator(f"#{chart}").hover()
        page.locator(f"#{chart}").press("ArrowDown")
    assert page.locator("img").count() == 0
    assert page.title().startswith("autotrainer: ")
    assert "<img src=x" in page.locator("main").inner_text()
    shown.take()


def test_print_shows_all_findings_on_white(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.managed(), color_scheme="light")
    pdf = shown.page.pdf(path=str(shown.picture.with_suffix(".pdf")))
    assert len(pdf) > 20_000
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown.page.emulate_media(media="print")
    assert shown.page.locator("details.finding:not([open])").count() == 0
    assert shown.page.locator(".controls:visible, .copy:visible").count() == 0
    shown.take()


def test_a_switch_of_the_color_scheme_redraws_the_charts(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.watched(), color_scheme="light")
    pixel = """document.querySelector("#curves canvas").toDataURL()"""
    before = shown.page.evaluate(pixel)
    shown.page.emulate_media(color_scheme="dark")
    shown.page.wait_for_timeout(200)
    assert shown.page.evaluate(pixel) != before
    assert _is_drawn(shown.page, "curves")
    shown.take()


def test_without_scripts_the_findings_can_still_be_read(reports: SimpleNamespace, open_report: Open) -> None:
    shown = open_report(reports.watched(), java_script_enabled=False)
    assert "The measured value of case 0" in shown.page.locator("#findings").inner_text()
    assert "The charts need JavaScript" in shown.page.locator("noscript").inner_text()
    shown.take()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("kind", ["watched", "managed"])
def test_accessibility_has_no_violation(
    reports: SimpleNamespace, open_report: Open, violations: Callable[[Any], list[Any]], kind: str, width: int,
    scheme: str,
) -> None:  # fmt: skip
    page = open_report(getattr(reports, kind)(), width, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.wait_for_timeout(100)
    assert violations(page) == []


def test_long_deep_runs_stay_responsive(
    reports: SimpleNamespace, open_report: Open, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    switch = """() => {
      const select = document.querySelector("#layers-controls select"), began = performance.now();
      for (const option of select.options) { select.value = option.value; select.dispatchEvent(new Event("change")); }
      return (performance.now() - began) / select.options.length;
    }"""
    times = {}
    for name, options in {"small": {"layers": 40}, "large": {"layers": 3000}}.items():
        report = Report.of_run(reports.findings(40, 400), *reports.history(400, epochs=20, **options))
        page = open_report(report).page
        times[name] = min(page.evaluate(switch) for _ in range(5))
    record_property("milliseconds", times)
    assert times["large"] < 3 * times["small"] + 20, "a heat map of thousands of layers is as large as one of 48"

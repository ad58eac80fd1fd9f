"""The live page in a real browser: it follows, compares, keeps what was chosen, and asks nobody else for anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrainer import registry
from autotrainer.view import run_folder
from autotrainer.view.page import routes
from autotrainer.view.run_folder import RunFolder
from autotrainer.view.server import ViewServer
from tests.autotrainer.view.recording import Recording

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">{{7*7}}\u202e<b>"

Open = Callable[..., Any]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewServer]:
    monkeypatch.setattr(run_folder, "_SCAN_EVERY", 0.0)
    (tmp_path / "runs").mkdir()
    with ViewServer(routes(RunFolder([tmp_path / "runs"], registry.make_rules))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def open_view(chromium: Any, server: ViewServer) -> Iterator[Open]:
    """Opens the page; at the end, nothing may have been complained about or requested from elsewhere."""
    contexts, complaints, requests = [], [], []

    def open_page(width: int = 1000, **options: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.url)
        return page

    yield open_page
    assert complaints == []
    assert requests
    assert not [url for url in requests if not url.startswith((server.url, "data:"))]
    for context in contexts:
        context.close()


def _run(tmp_path: Path, losses: list[float], **options: Any) -> Recording:
    run = Recording(tmp_path / "runs", **options)
    for loss in losses:
        run.step(loss)
    run.epoch(val_loss=losses[-1], val_accuracy=0.5)
    return run


def _picture(page: Any, tmp_path: Path, name: str) -> None:
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)


def test_empty_folder_is_waited_for_and_a_new_run_appears(open_view: Open, tmp_path: Path) -> None:
    page = open_view()
    page.get_by_text("waiting for one that watch(log_dir=…) writes").wait_for()
    _picture(page, tmp_path, "empty")
    run = _run(tmp_path, [1.0, 0.5])
    page.get_by_role("button", name=run.path.stem).wait_for()
    page.get_by_role("heading", name="Training curves").wait_for()
    _picture(page, tmp_path, "run")


def test_run_that_goes_on_is_followed_and_what_was_chosen_stays(open_view: Open, tmp_path: Path) -> None:
    run = _run(tmp_path, [1.0 + i / 10 for i in range(20)])
    page = open_view()
    group = page.locator("#curves-controls select").first
    group.select_option("metrics")
    page.evaluate("document.activeElement.blur()")
    page.locator("#ends-below summary").click()
    page.locator("#ends-below table").wait_for()
    scrolled = page.evaluate("scrollY")
    assert scrolled > 0
    run.step(0.25)
    page.locator("#view-runs td", has_text="20").first.wait_for()
    page.locator("#details dl div", has_text="sampled steps21").wait_for()
    assert group.input_value() == "metrics"
    assert page.locator("#ends-below table").is_visible()
    assert page.evaluate("scrollY") == scrolled
    assert page.evaluate("autotrainer.mounted.every((each) => each.box.isConnected)")
    run.end()
    page.locator(".state.finished").wait_for()


def test_two_runs_are_compared(open_view: Open, tmp_path: Path) -> None:
    runs = [_run(tmp_path, [scale / (i + 1) for i in range(20)], rate=scale) for scale in (1.0, 2.0)]
    page = open_view()
    for run in runs:
        page.get_by_role("checkbox", name=f"compare {run.path.stem}").check()
    chart = page.get_by_role("img", name=f"loss of {runs[0].path.stem}, {runs[1].path.stem} over steps")
    chart.wait_for()
    page.locator("#view-compare-controls select").select_option("val_loss")
    page.get_by_role("img", name="val loss of").wait_for()
    page.get_by_role("button", name="Compare with the first in detail").click()
    page.get_by_text("optimizer learning rate: 1 → 2").wait_for()
    _picture(page, tmp_path, "comparison")
    chart.focus() if chart.count() else page.locator("#view-compare").focus()
    page.keyboard.press("ArrowRight")
    assert runs[0].path.stem in page.locator("#announcement").inner_text()
    page.get_by_role("checkbox", name=f"compare {runs[0].path.stem}").uncheck()
    page.locator("#view-comparison").wait_for(state="hidden")


def test_another_run_is_chosen_with_the_keyboard(open_view: Open, tmp_path: Path) -> None:
    runs = [_run(tmp_path, [1.0] * 3, loss=loss) for loss in ("first_loss", "second_loss")]
    page = open_view()
    for run, loss in zip(runs, ("first_loss", "second_loss"), strict=True):
        page.get_by_role("button", name=run.path.stem).focus()
        page.keyboard.press("Enter")
        page.locator("#details dd", has_text=loss).wait_for()
        assert page.locator("button[aria-current=true]").inner_text() == run.path.stem


def test_hostile_names_stay_text(open_view: Open, tmp_path: Path) -> None:
    for place in (HOSTILE.replace("/", "_"), "x"):
        run = Recording(tmp_path / "runs" / place, layer=HOSTILE, loss=HOSTILE)
        for _ in range(30):
            run.step(float("inf"))
        run.epoch(**{HOSTILE: 1.0})
        run.end()
    page = open_view()
    page.locator("#details .finding").first.wait_for()
    for box in page.get_by_role("checkbox", name="compare").all():
        box.check()
    page.get_by_role("button", name="Compare with the first in detail").click()
    page.locator("#view-differences pre").wait_for()
    assert "owned" not in page.title()
    assert page.locator("img").count() == 0
    assert page.get_by_text("{{7*7}}").count()
    _picture(page, tmp_path, "hostile")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_page_fits_its_window(open_view: Open, tmp_path: Path, scheme: str, width: int) -> None:
    _run(tmp_path, [1.0 / (i + 1) for i in range(30)], layer="blocks.attention.projection.")
    _run(tmp_path, [float("inf")] * 30).cut()
    page = open_view(width, color_scheme=scheme)
    page.get_by_role("heading", name="Training curves").wait_for()
    for box in page.get_by_role("checkbox", name="compare").all():
        box.check()
    page.locator("#view-compare canvas").wait_for()
    _picture(page, tmp_path, f"{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("runs", ["none", "one", "several"])
def test_accessibility_has_no_violation(
    open_view: Open, tmp_path: Path, violations: Callable[[Any], list[Any]], runs: str, width: int, scheme: str
) -> None:
    if runs != "none":
        _run(tmp_path, [1.0 / (i + 1) for i in range(30)]).end()
    if runs == "several":
        _run(tmp_path, [2.0 / (i + 1) for i in range(30)])
        _run(tmp_path, [float("inf")] * 30).cut()
    page = open_view(width, color_scheme=scheme)
    page.get_by_text("waiting for one" if runs == "none" else "Training curves").wait_for()
    if runs == "several":
        for box in page.get_by_role("checkbox", name="compare").all():
            box.check()
        page.get_by_role("button", name="Compare with the first in detail").click()
        page.locator("#view-differences pre").first.wait_for()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.wait_for_timeout(100)
    _picture(page, tmp_path, f"{runs}-{scheme}-{width}")
    assert violations(page) == []


def test_end_of_the_server_is_said(chromium: Any, server: ViewServer, tmp_path: Path) -> None:
    _run(tmp_path, [1.0])
    page = chromium.new_page()
    page.goto(server.url)
    page.get_by_role("heading", name="Training curves").wait_for()
    page.route("**/runs", lambda route: route.abort())
    page.get_by_text("not connected").wait_for()
    page.unroute("**/runs")
    page.get_by_text("following").wait_for()
    page.close()


def test_run_that_can_not_be_loaded_once_is_followed_further(chromium: Any, server: ViewServer, tmp_path: Path) -> None:
    run = _run(tmp_path, [1.0])
    page = chromium.new_page()
    page.goto(server.url)
    page.get_by_role("heading", name="Training curves").wait_for()
    page.route("**/runs/*", lambda route: route.abort())
    run.step(0.5)
    page.get_by_text("could not show the latest").wait_for()
    page.unroute("**/runs/*")
    page.locator("#details dl div", has_text="sampled steps2").wait_for()
    page.close()

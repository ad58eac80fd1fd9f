from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.page.assets import LIBRARY, LIBRARY_SHA256, LIBRARY_VERSION, asset
from autotrainer.reporting.page.chart_data import chart_data, script_text
from autotrainer.reporting.page.highlight import highlighted
from autotrainer.reporting.page.story import chains, story
from autotrainer.reporting.report import Report

LARGEST = 1_500_000
"""Bytes of a report, at most."""


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._tag = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            self.scripts[-1] += data
        elif self._tag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_library_is_the_published_release() -> None:
    assert hashlib.sha256(asset(LIBRARY).encode()).hexdigest() == LIBRARY_SHA256
    assert f'version:"{LIBRARY_VERSION}"' in asset(LIBRARY)
    assert "Apache License" in asset("LICENSE")
    assert "Apache ECharts" in asset("NOTICE")
    assert "Copyright 2010-2016 Mike Bostock" in asset("LICENSE-d3")


@pytest.mark.parametrize("kind", ["watched", "managed", "empty"])
def test_a_page_loads_nothing_and_runs_its_own_scripts_alone(reports: SimpleNamespace, kind: str) -> None:
    report = Report() if kind == "empty" else getattr(reports, kind)()
    page = _Page(report.to_html())
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "srcset") or a.startswith("on")]
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert all(link is not None and link.startswith("#") for link in links)
    assert "url(" not in report.to_html().replace(asset(LIBRARY), "")
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    data, *scripts = page.scripts
    assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts} == allowed
    assert json.loads(data)


def test_a_page_knows_nothing_that_its_json_does_not(reports: SimpleNamespace) -> None:
    for report in (reports.watched(), reports.managed()):
        (data, *_) = _Page(report.to_html()).scripts
        known = json.loads(report.to_json())
        drawn = json.loads(data)
        assert drawn == chart_data(known)
        assert drawn["charts"] == known["charts"]
        assert drawn["returned"] == ({} if known["result"] is None else known["curves"])
        assert all(
            lane.items() <= finding.items() for lane, finding in zip(drawn["lanes"], known["findings"], strict=True)
        )


def test_reports_of_long_deep_runs_with_many_findings_fit(reports: SimpleNamespace) -> None:
    run = reports.history(1000, 300, 50, "a.very.long.path.of.modules.to.a.layer.{}")
    assert len(Report.of_run(reports.findings(40, 1000), *run).to_html().encode()) < LARGEST


def test_names_are_text_wherever_they_stand(reports: SimpleNamespace) -> None:
    plain, hostile = reports.managed(), reports.managed(reports.hostile.replace("{", "{{").replace("}", "}}") + "{}")
    pages = [_Page(report.to_html()) for report in (plain, hostile)]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert "\u202e" not in hostile.to_html()
    assert "\x1b" not in hostile.to_html()
    assert "</script><img" not in hostile.to_html()
    assert "{{7*7}}" in pages[1].text
    assert json.loads(hostile.to_json())["findings"][0]["problem"].startswith(reports.hostile), (
        "JSON keeps names as they are"
    )
    assert "<" not in script_text({"</script>": "<!--"})


def test_one_screen_says_what_since_when_why_and_what_to_do(reports: SimpleNamespace) -> None:
    text = _Page(reports.watched().to_html()).text
    brief = text[: text.index("Training curves")]
    assert "The measured value of case 0 is 0.000" in brief
    assert "From step 0 (epoch 0) to the latest step, 39." in brief
    assert "Leads to problem 1 and problem 2." in brief
    assert "Standardize the inputs inside the model." in brief
    repaired = _Page(reports.managed().to_html()).text
    brief = repaired[: repaired.index("Training curves")]
    assert "What was wrong" in brief
    assert "learning rate 0.01" in brief
    assert "validation accuracy: 0.5 → 0.9 test accuracy: 0.51 → 0.88" in brief


@pytest.mark.parametrize(
    ("consequences", "words"),
    [
        (1, "Leads to problem 1."),
        (5, "Leads to problem 1, problem 2, problem 3, problem 4 and problem 5."),
        (7, "Leads to problem 1, problem 2, problem 3, problem 4 and 3 more."),
    ],
)
def test_consequences_are_counted_from_the_sixth_on(reports: SimpleNamespace, consequences: int, words: str) -> None:
    root, *others = reports.findings(consequences + 1, 10)
    found = [root, *(replace(each, caused_by=root.problem, resolved_step=None) for each in others)]
    assert story(found, {}, None, None).why[-1] == words


def test_layers_in_changes_are_code(reports: SimpleNamespace) -> None:
    page = reports.managed().to_html()
    changes = page[page.index('id="patch"') : page.index('id="findings"')]
    assert "<code>block.1.fc</code>" in changes
    assert "`" not in page.partition("<main>")[2].partition("</main>")[0]


@pytest.mark.parametrize(
    ("given", "run", "status", "title"),
    [
        ((), {"steps": 3, "sampled_steps": 3}, "good", "No problem found"),
        ((), {"steps": 3, "sampled_steps": 0}, "unknown", "Nothing measured"),
        ((Severity.INFO,), {}, "good", "No problem found"),
        ((Severity.WARNING,), {}, "warning", "Problem 0"),
        ((Severity.WARNING, Severity.ERROR), {}, "error", "Problem 0"),
    ],
)
def test_status_is_that_of_the_worst_finding_of_the_first_chain(
    reports: SimpleNamespace, given: tuple[Severity, ...], run: dict[str, int], status: str, title: str
) -> None:
    found = [replace(f, severity=s, resolved_step=None) for f, s in zip(reports.findings(2, 10), given, strict=False)]
    brief = story(found, run, None, None)
    assert (brief.status, brief.title) == (status, title)


def test_chains_show_each_finding_once_under_its_cause() -> None:
    def names(causes: dict[str, str | None]) -> object:
        found = [Finding(p, "AT1", Severity.ERROR, 1.0, "m", caused_by=c) for p, c in causes.items()]

        def tree(link: object) -> object:
            return {link.finding.problem: [tree(each) for each in link.causes]}  # type: ignore[attr-defined]

        return [tree(link) for link in chains(found)]

    assert names({"a": None, "b": "a", "c": "b", "d": "a", "e": None}) == [{"a": [{"b": [{"c": []}]}, {"d": []}]}]
    assert names({"a": "b", "b": "a"}) == [{"a": [{"b": []}]}]
    assert names({"a": None, "b": None}) == []


@pytest.mark.parametrize(
    ("lines", "page"),
    [
        ((), ""),
        (("x = 'a<b'",), "x = <span class=\"string\">&#x27;a&lt;b&#x27;</span>"),
        (("# 1 & 2", "if x:"), '<span class="comment"># 1 &amp; 2</span>\n<span class="keyword">if</span> x:'),
        (("x = (", "# not ended <"), "x = (\n# not ended &lt;"),
        (("    indented <b>",), "    indented &lt;b&gt;"),
        (('x = """a', 'b""" + y'), 'x = <span class="string">&quot;&quot;&quot;a\nb&quot;&quot;&quot;</span> + y'),
        (("def f():", "    2"), '<span class="keyword">def</span> f():\n    <span class="number">2</span>'),
    ],
)  # fmt: skip
def test_code_is_colored_and_escaped(lines: tuple[str, ...], page: str) -> None:
    assert highlighted(lines) == page


def test_every_line_of_a_patch_is_shown_as_it_is(reports: SimpleNamespace) -> None:
    report = reports.managed()
    assert report.outcome is not None
    code = re.findall(r'<code id="code-\d+">(.*?)</code>', report.to_html(), re.DOTALL)
    assert [unescape(re.sub("<[^>]+>", "", each)).split("\n") for each in code] == [
        list(step.code) for step in report.outcome.patch_steps
    ]
    assert "train.py:12" in _Page(report.to_html()).text

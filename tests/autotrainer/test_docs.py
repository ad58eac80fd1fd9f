"""Pages of rules and repairs are complete, and the examples in the documents run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autotrainer import registry
from autotrainer.repair import DOC_SECTIONS as REPAIR_SECTIONS
from autotrainer.repair import Repair
from autotrainer.rule import DOC_SECTIONS as RULE_SECTIONS
from autotrainer.rule import Rule

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def _sections(page: str) -> dict[str, str]:
    """Return the text under each heading: a line of its own, followed by indented lines."""
    parts = re.split(r"^(\S[^\n]*)\n(?=    )", page, flags=re.MULTILINE)
    return dict(zip((h.strip().rstrip(":") for h in parts[1::2]), parts[2::2], strict=True))


def _check(page: str, headings: tuple[str, ...]) -> None:
    sections = _sections(page)
    assert tuple(name for name in sections if name in headings) == headings
    assert all(sections[name].strip() for name in headings)


@pytest.mark.parametrize("rule", registry.rules(), ids=lambda rule: rule.problem)
def test_rule_page_has_all_sections(rule: type[Rule]) -> None:
    _check(rule.documentation(), RULE_SECTIONS)
    assert all(t.about and t.source for t in rule.THRESHOLDS.values())
    assert all(t.minimum <= t.default <= t.maximum for t in rule.THRESHOLDS.values())


@pytest.mark.parametrize("repair", registry.repairs(), ids=lambda repair: repair.name)
def test_repair_page_has_all_sections(repair: type[Repair]) -> None:
    _check(repair.documentation(), REPAIR_SECTIONS)


def test_rules_and_repairs_refer_to_existing_names() -> None:
    rules, repairs = registry.rules(), registry.repairs()
    problems, names = {r.problem for r in rules}, {r.name for r in repairs}
    for rule in rules:
        assert set(rule.repairs) <= names, rule.problem
        assert set(rule.causes) <= problems - {rule.problem}, rule.problem
    for repair in repairs:
        assert set(repair.fixes) <= problems, repair.name


def _blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(_blocks("README.md", "python"))))
def test_readme_examples_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_blocks("README.md", "python")[number], f"README.md block {number}", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_have_valid_links_and_no_local_paths(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp|Users)/", text)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_contributing_guides_have_at_most_eight_steps() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    sections = [s for s in re.split(r"^## ", text, flags=re.MULTILINE) if s.startswith("Add a")]
    assert [s.split("\n", 1)[0] for s in sections] == ["Add a rule", "Add a repair", "Add a backend"]
    for section in sections:
        steps = [int(n) for n in re.findall(r"^(\d+)\. ", section, flags=re.MULTILINE)]
        assert steps == list(range(1, len(steps) + 1))
        assert 1 < len(steps) <= 8


def test_readme_has_the_commands_of_ci() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "pip install '.[torch]' && autotrainer demo" in text
    assert "pip install '.[test]' && pytest" in text
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"^pip install .*'\.\[test\]'$", script, flags=re.MULTILINE)
    assert re.search(r"^pytest$", script, flags=re.MULTILINE)
    assert re.search(r"^pytest -m slow\b", script, flags=re.MULTILINE)


def test_readme_lists_every_command() -> None:
    from autotrainer.cli import COMMANDS

    text = (ROOT / "README.md").read_text("utf-8")
    assert all(f"autotrainer {command.NAME}" in text for command in COMMANDS)

"""Every rule and repair has its page, and what the documents show runs and is what they say it prints."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from autotrainer import registry
from autotrainer.config import project_settings
from autotrainer.repair import DOC_SECTIONS as REPAIR_SECTIONS
from autotrainer.repair import Repair
from autotrainer.rule import DOC_SECTIONS as RULE_SECTIONS
from autotrainer.rule import Rule

ROOT = Path(__file__).parents[2]


def _module(name: str) -> Any:
    """Load a file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


examples = _module("examples")
PAGES: tuple[str, ...] = examples.DOCUMENTS[1:]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES)
EXAMPLES = [example for document in ("README.md", *PAGES) for example in examples.examples(document)]


def _sections(page: str) -> dict[str, str]:
    """Return the text under each heading: a line of its own, followed by indented lines."""
    parts = re.split(r"^(\S[^\n]*)\n(?=    )", page, flags=re.MULTILINE)
    return dict(zip((h.strip().rstrip(":") for h in parts[1::2]), parts[2::2], strict=True))


def _check(page: str, wanted: tuple[str, ...]) -> None:
    sections = _sections(page)
    assert tuple(name for name in sections if name in wanted) == wanted
    assert all(sections[name].strip() for name in wanted)


@pytest.mark.parametrize("rule", registry.rules(), ids=lambda rule: rule.problem)
def test_page_of_a_rule(rule: type[Rule]) -> None:
    _check(rule.documentation(), RULE_SECTIONS)
    assert all(t.about and t.source for t in rule.THRESHOLDS.values())
    assert all(t.minimum <= t.default <= t.maximum for t in rule.THRESHOLDS.values())


@pytest.mark.parametrize("repair", registry.repairs(), ids=lambda repair: repair.name)
def test_page_of_a_repair(repair: type[Repair]) -> None:
    _check(repair.documentation(), REPAIR_SECTIONS)


def test_rules_name_known_repairs_and_causes_and_repairs_known_problems() -> None:
    rules, repairs = registry.rules(), registry.repairs()
    problems, names = {r.problem for r in rules}, {r.name for r in repairs}
    for rule in rules:
        assert set(rule.repairs) <= names, rule.problem
        assert set(rule.causes) <= problems - {rule.problem}, rule.problem
    for repair in repairs:
        assert set(repair.fixes) <= problems, repair.name


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run_and_print_what_the_documents_show(example: Any, tmp_path: Path, run_forked: Any) -> None:
    def run(example: Any) -> str:
        (tmp_path / "train.py").write_text(example.code, "utf-8")
        code = "import os, runpy, sys\nos.chdir(sys.argv[1])\nsys.path[0] = sys.argv.pop()\n"
        (ran,) = run_forked(
            (code + "runpy.run_path('train.py', run_name='__main__')", [str(tmp_path)], {"COLUMNS": "100"})
        )
        assert ran.returncode == 0, ran.stderr
        return str(ran.stdout)

    examples.check(example, run if "import torch\n" in example.code else examples.run)


def test_words_of_an_output_are_those_of_another_machine() -> None:
    one = "loss 0.25 in layers 0, 2,\n4: ratio = 1e-07 (90% sure)"
    other = "loss 12 in layers\n1: ratio = -0.5 (8% sure)"
    assert examples.words(one) == examples.words(other) == "loss # in layers #: ratio = # (#% sure)"


def test_examples_are_found_with_their_outputs() -> None:
    assert {example.name.partition(":")[0] for example in EXAMPLES} >= {"README.md", "docs/fit.md", "docs/extending.md"}
    for example in EXAMPLES:
        text = (ROOT / example.name.partition(":")[0]).read_text("utf-8")
        assert example.output is None or text[slice(*example.span)] == example.output != ""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_of_settings_in_the_documents_are_valid(document: str, tmp_path: Path) -> None:
    text = (ROOT / document).read_text("utf-8")
    for block in re.findall(r"^```toml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / "pyproject.toml").write_text(block, "utf-8")
        if "autotrainer" in tomllib.loads(block).get("tool", {}):
            settings = project_settings(tmp_path)
            assert settings.path is not None
            registry.make_rules(settings.select, settings.ignore, settings.thresholds)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_no_path_of_a_machine_and_link_to_files_that_exist(document: str) -> None:
    path = ROOT / document
    text = path.read_text("utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp|Users)/", text)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        if not target.removeprefix("../").startswith(("problems/", "repairs/")):  # generated
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("document", PAGES)
def test_documents_link_to_pages_of_problems_and_repairs_that_exist(document: str) -> None:
    pages = {"problems/index", "repairs/index"}
    pages |= {f"problems/{rule.problem}" for rule in registry.rules()}
    pages |= {f"repairs/{repair.name}" for repair in registry.repairs()}
    text = (ROOT / document).read_text("utf-8")
    assert set(re.findall(r"\]\((?:\.\./)?((?:problems|repairs)/\w+)\.md", text)) <= pages


def test_guides_suggest_repairs_that_the_rules_suggest() -> None:
    rules = {rule.problem: rule for rule in registry.rules()}
    rows = 0
    for guide in sorted((ROOT / "docs" / "guides").glob("*.md")):
        for row in re.findall(r"^\| (\[\w+\]\(\.\./problems/.*)\|$", guide.read_text("utf-8"), flags=re.MULTILINE):
            problems = re.findall(r"problems/(\w+)\.md", row)
            repairs = re.findall(r"repairs/(\w+)\.md", row)
            assert set(repairs) <= {name for problem in problems for name in rules[problem].repairs}, row
            rows += 1
    assert rows > 25


def test_every_page_is_in_one_table_of_contents() -> None:
    docs = ROOT / "docs"
    listed = []
    for page in docs.rglob("*.md"):
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
        ):
            for entry in [line for line in block.splitlines() if line and not line.startswith(":")]:
                paths = page.parent.glob(f"{entry}.md") if "*" in entry else [page.parent / f"{entry}.md"]
                listed += [path.relative_to(docs).with_suffix("").as_posix() for path in paths if path != page]
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")} - {"index"}
    pages = {page for page in pages if page.partition("/")[0] not in ("problems", "repairs")}  # generated
    assert len(listed) == len(set(listed))
    assert pages <= set(listed)


def test_contributing_takes_at_most_eight_steps_each() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    sections = [s for s in re.split(r"^## ", text, flags=re.MULTILINE) if s.startswith("Add a")]
    names = ["Add a rule", "Add a repair", "Add an edit", "Add a backend"]
    assert [s.split("\n", 1)[0] for s in sections] == names
    for section in sections:
        steps = [int(n) for n in re.findall(r"^(\d+)\. ", section, flags=re.MULTILINE)]
        assert steps == list(range(1, len(steps) + 1))
        assert 1 < len(steps) <= 8


def test_contributing_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {f"{path.parent.name}/" for path in (ROOT / "autotrainer").glob("*/__init__.py")}
    rooms |= {f"{path.parent.name}/" for path in (ROOT / "backends").glob("*/*/__init__.py")}
    assert [room for room in sorted(rooms) if f"| `{room}`" not in text] == []


def test_readme_has_the_commands_of_the_checks() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "pip install '.[torch]' && autotrainer demo" in text
    assert "pip install '.[test]' && pytest" in text
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"^pip install .*'\.\[test\]'$", script, flags=re.MULTILINE)
    assert re.search(r"^pytest$", script, flags=re.MULTILINE)
    assert re.search(r"^pytest -m slow\b", script, flags=re.MULTILINE)
    assert re.search(r"^pip install .*'\.\[docs\]'$", script, flags=re.MULTILINE)
    assert re.search(r"^python -m sphinx -W\b", script, flags=re.MULTILINE)


def test_the_page_of_the_command_line_lists_every_command() -> None:
    from autotrainer.cli import COMMANDS

    text = (ROOT / "docs" / "command_line.md").read_text("utf-8")
    assert all(f"| `autotrainer {command.NAME}" in text for command in COMMANDS)


def test_plots_show_the_figures_of_the_page() -> None:
    plots = _module("make_plots")
    folder = ROOT / "docs" / "_static" / "quality"
    shares = [round(100 * hits / cases) for cells in plots.detection().values() for _, hits, cases in cells]
    gaps = [value for bars in plots.repair().values() for _, value, _ in bars]
    for name, values in (("detection", shares), ("repair", gaps)):
        text = (folder / f"{name}.svg").read_text("utf-8")
        labels = [int(label) for label in re.findall(r">(\d+) %</text>", text)]
        assert sorted(labels) == sorted(values), f"{name}: python docs/make_plots.py draws it again"
    assert len(shares) == 18
    assert (len(gaps), gaps[0]) == (15, 70)


@pytest.mark.parametrize("folder", ["problems", "repairs"])
def test_pages_have_small_pictures_with_captions(folder: str) -> None:
    pictures = ROOT / "docs" / "_static" / folder
    captions = json.loads((pictures / "captions.json").read_text("utf-8"))
    assert {path.stem for path in pictures.glob("*.svg")} == set(captions)
    pages = (
        {rule.problem for rule in registry.rules()} if folder == "problems" else {r.name for r in registry.repairs()}
    )
    source = ROOT / "docs" / "pictures" / {"problems": "problems.py", "repairs": "repaired.py"}[folder]
    said = source.read_text("utf-8").partition("\nWITHOUT")[2]
    assert pages - set(captions) == set(re.findall(r'^    "(\w+)":', said, re.MULTILINE)), "those without, and why"
    assert set(captions) <= pages
    assert sum(path.stat().st_size for path in pictures.glob("*.svg")) < 2_000_000
    assert max(path.stat().st_size for path in pictures.glob("*.svg")) < 60_000

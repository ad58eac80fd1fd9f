"""The pages of the integrations: there is one for each, and their examples run and print what they show."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "integrations"


def _examples() -> Any:
    """Load a file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location("docs_integration_examples", ROOT / "docs" / "examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


examples = _examples()
ALL = [example for page in examples.INTEGRATIONS for example in examples.examples(page)]
ALONE = [example for example in ALL if not re.match(r"# \w+\.py\n", example.code)]
"""Without files that belong together: the test of their page runs those."""


@pytest.mark.integrations
@pytest.mark.parametrize("example", ALONE, ids=lambda example: example.name)
def test_examples_run_and_print_what_the_pages_show(example: Any) -> None:
    examples.check(example)


def test_the_table_has_every_integration_and_no_other() -> None:
    text = (FOLDER / "index.md").read_text("utf-8")
    folder = ROOT / "autotrainer" / "integrations"
    modules = {path.stem for path in folder.glob("[!_]*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(re.findall(r"autotrainer\.integrations\.(\w+)", text)) == modules


@pytest.mark.parametrize("page", examples.INTEGRATIONS)
def test_pages_link_to_pages_that_exist_and_name_no_path_of_a_machine(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp|Users)/", text)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        if not target.startswith(("../problems/", "../repairs/")):  # generated
            assert (FOLDER / target).exists(), target


def test_extras_of_the_table_are_those_of_the_distribution() -> None:
    text = (ROOT / "setup.cfg").read_text("utf-8")
    extras = set(re.findall(r"^(\w+) =$", text[text.index("[options.extras_require]") :], flags=re.MULTILINE))
    for page in examples.INTEGRATIONS:
        named = re.findall(r"autotrainer-monitor\[([\w,]+)\]", (ROOT / page).read_text("utf-8"))
        assert {extra for names in named for extra in names.split(",")} <= extras, page

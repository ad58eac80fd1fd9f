"""Names of layers can't change the code of a patch: it has the structure of the patch for a plain name."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autotrainer import edits as e
from autotrainer import registry
from autotrainer.errors import ConfigError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.testing import FakeBackend, every_edit

FRAMEWORKS = ("pytorch", "keras3")
HOSTILE = [
    "a\nimport os",
    "a\r\nimport os",
    "a\x0bb",
    "a\x85import os",
    "a\u2028import os\u2029",
    "'",
    '"',
    "'''",
    '"""',
    "\\",
    "\\'",
    "\\n",
    "a\\",
    "#",
    "# ",
    "a#b",
    "{}",
    "{0}",
    "{x!r}",
    "{{",
    "}}",
    "%s",
    "%",
    "%(x)s",
    "class",
    "import",
    "None",
    "True",
    "__import__('os').system('id')",
    "');import os;('",
    '"]);import os;(["',
    "a'b\"c",
    "a b",
    "a,b",
    "a=b",
    "a:b",
    "a;b",
    "\0",
    "\x1b[2J",
    "\x07",
    "\u202e",
    "\u2066x\u2069",
    "\u200b",
    "\ufeff",
    "\ud800",
    "\udc80",
    "é",
    "ﬁ",
    "𝐱",
    "１",
    "аbс",
    "\u05d0",
    "\u0661",
    "a\tb",
    "a\x0cb",
    " ",
    "  import os",
    "a\\\nb",
    "()",
    "[]",
    "*",
    "**x",
    "-",
    "0",
    "1e5",
    "0x",
    "a.b",
    ".a",
    "a.",
    "...",
    "/",
    "a/b",
    "a//b",
    "[bold]",
    "$x",
    "`x`",
    "`: 3 units, `y",
    "…",
    "x" * 501,
    "x" * 10_000,
    "\n" * 100,
    "'" * 100,
]
EDITS = every_edit(("a", "b"))
NAMED = [edit for edit in EDITS if hasattr(edit, "layers")]
NAMES = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=30) | st.sampled_from(HOSTILE)


def named(edit: e.Edit, name: str) -> e.Edit:
    """Return an edit of layers of this name."""
    other = f"{name}2"
    if isinstance(edit, e.ResizeLayers):
        return e.ResizeLayers((name, other), (3, 4), (f"{name}3",), (5,))
    if isinstance(edit, e.ResizeOutputLayer):
        return e.ResizeOutputLayer(3, (name,), (other,), (3,))
    changes: dict[str, Any] = {"layers": (name, other)}
    return replace(edit, **changes)


def parts(name: str) -> int:
    """Return in how many models a Keras layer of this name lies; `get_layer` is called for each."""
    return name.count("/")


def structure(lines: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the tree of code with names replaced by others: equal for equal code."""
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = names.get(node.value, node.value)
    return ast.dump(tree, indent=1).splitlines()


def check(edit: e.Edit, name: str) -> None:
    plain = "plain" + "/plain" * parts(name)
    pairs = [(name, plain), (f"{name}2", f"{plain}2"), (f"{name}3", f"{plain}3")]
    names = {old: "NAME" for pair in pairs for old in pair}
    names |= {f"{old}.": "PREFIX" for pair in pairs for old in pair}
    names |= {part: "PART" for old in list(names) for part in old.split("/")}  # Keras looks up the parts of a path
    for framework in FRAMEWORKS:
        backend = registry.backend_named(framework)
        assert backend is not None
        hostile, expected = backend.patch(named(edit, name)), backend.patch(named(edit, plain))
        assert len(hostile) == len(expected)
        for line in hostile:
            assert "\n" not in line
            assert line.isprintable(), ascii(line)
            if not line.lstrip().startswith("#"):
                code = line.partition("  #")[0]
                assert code.isascii(), "letters of code are what they look like"
        assert structure(hostile, names) == structure(expected, names), hostile
        text = str(RepairPlan((), (named(edit, name),), ("p",), framework, start=2, places={"p": f"{name}.py:3"}))
        lines = text.split("\n")
        assert all(line.isprintable() for line in lines)
        starts = ("To fix", "Note: ", "Apply this", "1. ", "       ")
        assert all(line.startswith(starts) for line in lines), lines
        ast.parse("\n".join(line[7:] for line in lines if line.startswith("       ")))
        assert str(named(edit, name)).isprintable()


@pytest.mark.parametrize("edit", NAMED, ids=lambda edit: type(edit).__name__)
def test_hostile_names(edit: e.Edit, record_property: Callable[[str, int], None]) -> None:
    record_property("attacks", 2 * len(HOSTILE))
    for name in HOSTILE:
        check(edit, name)


@pytest.mark.parametrize("examples", [20, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("edit", NAMED, ids=lambda edit: type(edit).__name__)
def test_any_names(edit: e.Edit, examples: int, record_property: Callable[[str, int], None]) -> None:
    record_property("attacks", 2 * examples)

    @settings(max_examples=examples, database=None, derandomize=True)
    @given(NAMES)
    @example("a\nimport os")
    def run(name: str) -> None:
        check(edit, name)

    run()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_plan_of_all_edits_is_python(framework: str, record_property: Callable[[str, int], None]) -> None:
    record_property("attacks", 2 * len(HOSTILE[::4]))
    for start in (0, 3):
        for name in HOSTILE[::4]:
            edits = tuple(named(edit, name) if edit in NAMED else edit for edit in EDITS)
            text = str(RepairPlan((), edits, framework=framework, start=start))
            ast.parse("\n".join(line[7:] for line in text.split("\n") if line.startswith("       ")))


def test_names_that_are_too_long_are_not_printed() -> None:
    edit = e.Reinitialize(("x" * 10**6,), "he_uniform")
    text = str(RepairPlan((), (edit,)))
    assert len(text) < 2000
    assert "plan.apply(model, optimizer) makes this change" in text


def test_lines_of_other_backends_are_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend(FakeBackend):
        def patch(self, edit: e.Edit, edits: Sequence[e.Edit] = ()) -> list[str]:
            return [f"# {name}" for name in edit.layers]  # type: ignore[attr-defined]

    monkeypatch.setattr(registry, "backends", lambda: (Backend(),))
    text = str(RepairPlan((), (e.AddResidual(("a\nimport os", "\x1b\u202e")),), framework="fake"))
    assert text.split("\n")[-2:] == ["       # a\\nimport os", "       # \\x1b\\u202e"]


def test_edits_left_to_the_user_are_not_put_under_a_condition() -> None:
    text = str(RepairPlan((), (e.AddDropout(("a",), 0.5),), framework="keras3", start=4))
    assert "       # from the start of epoch 4:\n       # after the activation of a:" in text


NUMBERS = (5e-324, 1e-300, 1e-7, 0.1, 0.9999999, 1.5, 1e16, 1e22, 1e300, math.nextafter(math.inf, 0), 2, 2**62)


def test_patches_of_extreme_numbers_are_python(record_property: Callable[[str, int], None]) -> None:
    attacks = 0
    for edit in EDITS:
        for field in fields(edit):
            for number in NUMBERS:
                for value in (number, -number, (number,), (-number, number), (number, number)):
                    try:
                        changed = type(edit)(
                            **{f.name: value if f is field else getattr(edit, f.name) for f in fields(edit)}
                        )
                    except ConfigError:
                        continue
                    for framework in FRAMEWORKS:
                        check_code(str(RepairPlan((), (changed,), framework=framework)))
                        attacks += 1
    record_property("attacks", attacks)


def check_code(text: str) -> None:
    """Check that the lines of a plan are Python that needs no name such as ``inf``."""
    code = "\n".join(line[7:] for line in text.splitlines() if line.startswith("       "))
    tree = ast.parse(code)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"inf", "nan", "Infinity", "NaN"}, code

"""Who may import whom: walks the imports of every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "sklearn", "torchvision"}
RECORDS = {
    f"autotrainer.{name}" for name in ("errors", "signals", "facts", "task", "history", "findings", "edits", "data")
}
EXTRAS = {
    "autotrainer/suggesting.py": {"optuna"},
    "autotrainer/parallel.py": {"joblib", "cloudpickle"},
    "autotrainer/ray_pool.py": {"ray"},
}
GLUE = ("autotrainer/registry.py", "autotrainer/__init__.py", "autotrainer/reproducing.py")
GLUE_FOLDERS = ("autotrainer/cli/", "autotrainer/demo/", "autotrainer/testing/")


def _files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py"))


def _imports(file: str) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported as the file is), types-only imports left out."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    lazy = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    types = {
        n
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for n in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "autotrainer":
                yield from ((f"autotrainer.{alias.name}", node not in lazy) for alias in node.names)
            else:
                yield node.module or "", node not in lazy


def _third_party(module: str) -> bool:
    top = module.partition(".")[0]
    return top != "autotrainer" and top not in sys.stdlib_module_names


def _within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def _is_glue(file: str) -> bool:
    return file in GLUE or file.startswith(GLUE_FOLDERS)


@pytest.mark.parametrize("file", _files("rules"))
def test_rules_see_only_records_and_their_base(file: str) -> None:
    allowed = RECORDS - {"autotrainer.edits", "autotrainer.data"} | {"autotrainer.rule", "autotrainer.rules", "numpy"}
    for module, _ in _imports(file):
        assert _within(module, allowed) or module.partition(".")[0] in sys.stdlib_module_names, module


@pytest.mark.parametrize("file", _files("repairs"))
def test_repairs_see_only_records_and_their_base(file: str) -> None:
    allowed = RECORDS | {"autotrainer.repair", "autotrainer.repairs", "numpy"}
    for module, _ in _imports(file):
        assert _within(module, allowed) or module.partition(".")[0] in sys.stdlib_module_names, module


@pytest.mark.parametrize("file", _files("backends"))
def test_backends_see_core_and_their_own_framework(file: str) -> None:
    own = {"pytorch": {"torch"}, "keras3": {"keras", "tensorflow", "jax", "torch", "h5py"}}
    backend = Path(file).parts[1]
    for module, _ in _imports(file):
        if _third_party(module):
            assert module.partition(".")[0] in own.get(backend, set()) | {"numpy"}, module
        assert not _within(module, {"autotrainer.rules", "autotrainer.repairs"}), module
        if _within(module, {"autotrainer.backends"}):
            assert module.startswith(f"autotrainer.backends.{backend}"), module


@pytest.mark.parametrize("file", _files("autotrainer"))
def test_core_knows_no_framework_and_no_single_rule(file: str) -> None:
    comparing = {"sklearn"} if file == "autotrainer/simple_models.py" else set()  # no neural network: simple models
    for module, _ in _imports(file):
        top = module.partition(".")[0]
        if not file.startswith("autotrainer/demo/"):
            assert top not in FRAMEWORKS - comparing, module
        if not _is_glue(file):
            assert not _within(module, {"autotrainer.rules", "autotrainer.repairs", "autotrainer.backends"}), module
        if _third_party(module):
            extra = EXTRAS.get(file, set())
            assert top in FRAMEWORKS | {"numpy", "rich", "jinja2", "pytest"} | extra, module


@pytest.mark.parametrize("file", _files("autotrainer"))
def test_core_imports_others_only_when_needed(file: str) -> None:
    at_once = {module.partition(".")[0] for module, early in _imports(file) if early and _third_party(module)}
    allowed = {"numpy", "pytest"} if file.startswith("autotrainer/testing/") else {"numpy"}
    assert at_once <= allowed


@pytest.mark.parametrize("module", sorted(RECORDS))
def test_records_see_only_records(module: str) -> None:
    path = module.replace(".", "/")
    for file in _files(path) or [f"{path}.py"]:
        for imported, _ in _imports(file):
            assert not imported.startswith("autotrainer") or _within(imported, RECORDS), imported


@pytest.mark.parametrize("file", _files("benchmarks"))
def test_benchmarks_use_the_public_contract_only(file: str) -> None:
    import autotrainer

    public = {f"autotrainer.{name}" for name in autotrainer.__all__} | {"autotrainer"}
    for module, _ in _imports(file):
        assert not module.startswith("autotrainer") or _within(module, public - {"autotrainer"}) or module in public

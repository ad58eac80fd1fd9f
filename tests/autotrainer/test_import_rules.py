"""Allowed imports between packages: every file against ordered tables of rooms."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CORE = (
    {"safe_text"},
    {"errors", "output", "html_fragment", "_version"},
    {"records", "edits", "config"},
    {"repair", "rule", "sink"},
    {"adapter"},
    {"plugins"},
    {"registry"},
    {"reporting"},
    {"monitoring"},
    {"scoring"},
    {"training"},
    {"diagnostics", "workers", "testing", "comparison"},
    {"search"},
    {"api"},
    {"integrations", "view"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Rooms of the core, lowest first: a file imports its own room and those in lower rows."""
PYTORCH = (
    {"runtime", "patches"},
    {"layers"},
    {"model"},
    {"losses", "ranks"},
    {"optim"},
    {"statistics", "probing"},
    {"data"},
    {"watching"},
    {"scripts", "surgery"},
    {"training"},
    {"loop"},
    {"backend"},
    {"__init__", "moved"},
)
KERAS = (
    {"runtime", "patches"},
    {"layers"},
    {"model"},
    {"statistics"},
    {"engines"},
    {"data", "probing"},
    {"watching", "surgery"},
    {"training"},
    {"backend"},
    {"__init__", "moved"},
)
OUTSIDE = {
    "rules": {"errors", "records", "rule", "rules"},
    "repairs": {"errors", "records", "edits", "repair", "repairs"},
    "backends": {room for row in CORE[:11] for room in row},
}
"""Rooms of the core that the other packages see."""

FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "sklearn", "torchvision"}
OWN_FRAMEWORK = {"pytorch": {"torch"}, "keras3": {"keras", "tensorflow", "jax", "torch"}}
EXTRAS = {
    "autotrainer/cli/mcp/fit_process.py": {"anyio"},
    "autotrainer/cli/mcp/server.py": {"mcp", "mcp_types", "pydantic"},
    "autotrainer/demo": {"torch", "keras", "h5py"},
    "autotrainer/diagnostics/baseline_models.py": {"sklearn"},
    "autotrainer/integrations/_clipping.py": {"torch"},
    "autotrainer/integrations/huggingface.py": {"torch"},
    "autotrainer/integrations/ignite.py": {"ignite"},
    "autotrainer/integrations/lightning.py": {"lightning", "pytorch_lightning", "torch"},
    "autotrainer/reporting/page/page.py": {"jinja2"},
    "autotrainer/reporting/terminal.py": {"rich"},
    "autotrainer/integrations/optuna.py": {"optuna"},
    "autotrainer/integrations/pytest.py": {"pytest"},
    "autotrainer/integrations/ray.py": {"ray"},
    "autotrainer/search/halving/samplers.py": {"optuna"},
    "autotrainer/testing": {"pytest"},
    "autotrainer/training/progress.py": {"rich"},
    "autotrainer/workers/file_lock.py": {"filelock"},
    "autotrainer/workers/ray_pool.py": {"ray"},
    "autotrainer/view/terminal.py": {"rich"},
    "autotrainer/workers/worker_pool.py": {"joblib", "cloudpickle"},
}
"""Third-party packages, apart from NumPy, that files of the core import where they need them."""
AT_ONCE = {
    "autotrainer/cli/mcp/fit_process.py": {"anyio"},
    "autotrainer/cli/mcp/server.py": {"mcp", "mcp_types", "pydantic"},
    "autotrainer/integrations/huggingface.py": {"torch"},
    "autotrainer/integrations/optuna.py": {"optuna"},
    "autotrainer/integrations/pytest.py": {"pytest"},
    "autotrainer/integrations/ray.py": {"ray"},
    "autotrainer/testing": {"pytest"},
    "autotrainer/demo/model_file.py": {"keras", "h5py"},
    "autotrainer/demo/published_models.py": {"keras"},
    "autotrainer/integrations/lightning.py": {"torch"},
}
"""Those among them that are imported with the file."""
MOST_FILES = 15
"""Files a folder, apart from the flat registries: with more, a newcomer can't predict where something is."""


def _files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py"))


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text("utf-8"))


def _imports(file: str) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported with the file): not if within a function, nor for types alone."""
    tree = _tree(file)
    late = (ast.FunctionDef, ast.AsyncFunctionDef)
    lazy = {
        node
        for part in ast.walk(tree)
        if isinstance(part, late) or (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test))
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "autotrainer":
                yield from ((f"autotrainer.{alias.name}", node not in lazy) for alias in node.names)
            else:
                yield node.module or "", node not in lazy


def _core_room(module: str) -> str:
    """Return the room of a module of the core; a public name of the package itself belongs to its top."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if any(name in row for row in CORE) else "__init__"


def _room_of_file(file: str) -> str:
    parts = Path(file).parts
    inner = parts[2:] if parts[0] == "backends" else parts[1:]
    return inner[0].removesuffix(".py")


def _rank(rows: tuple[set[str], ...], room: str) -> int:
    (rank,) = (number for number, row in enumerate(rows) if room in row)
    return rank


def _third_party(module: str) -> bool:
    top = module.partition(".")[0]
    return top != "autotrainer" and top not in sys.stdlib_module_names


def _allowed(file: str, table: Mapping[str, set[str]]) -> set[str]:
    return {"numpy"}.union(*(names for path, names in table.items() if file == path or file.startswith(f"{path}/")))


def _is_plugin_side(module: str) -> bool:
    return module.startswith(("autotrainer.rules", "autotrainer.repairs", "autotrainer.backends"))


def test_core_imports_only_downward() -> None:
    for file in _files("autotrainer"):
        room = _room_of_file(file)
        for module, _ in _imports(file):
            if module.partition(".")[0] != "autotrainer" or _is_plugin_side(module):
                continue
            other = _core_room(module)
            below = _rank(CORE, other) < _rank(CORE, room)
            public = room == "demo" and other == "__init__"  # it is a user of the package
            assert below or other == room or public, f"{file} imports {module}, which is not below it"


def test_core_imports_no_rule_repair_or_backend() -> None:
    for file in _files("autotrainer"):
        assert not [module for module, _ in _imports(file) if _is_plugin_side(module)], file


def test_core_imports_third_party_packages_lazily_where_listed() -> None:
    for file in _files("autotrainer"):
        third = [(module.partition(".")[0], early) for module, early in _imports(file) if _third_party(module)]
        assert {top for top, _ in third} <= _allowed(file, EXTRAS), file
        assert {top for top, early in third if early} <= _allowed(file, AT_ONCE), file


def test_rules_and_repairs_import_only_their_base() -> None:
    for file in [*_files("rules"), *_files("repairs")]:
        allowed = OUTSIDE[Path(file).parts[0]]
        for module, _ in _imports(file):
            if module.startswith("autotrainer"):
                assert module.split(".")[1] in allowed, (file, module)
            else:
                assert module.partition(".")[0] == "numpy" or not _third_party(module), (file, module)


def test_backends_import_core_and_their_framework_only() -> None:
    for file in _files("backends"):
        backend = Path(file).parts[1]
        for module, _ in _imports(file):
            if _third_party(module):
                assert module.partition(".")[0] in OWN_FRAMEWORK.get(backend, set()) | {"numpy"}, (file, module)
            elif module.startswith("autotrainer.backends"):
                assert module.startswith(f"autotrainer.backends.{backend}"), (file, module)
            elif module.startswith("autotrainer"):
                assert module.split(".")[1] in OUTSIDE["backends"], (file, module)


def test_rooms_of_a_backend_import_only_downward() -> None:
    for file in [*_files("backends/pytorch"), *_files("backends/keras3")]:
        backend = Path(file).parts[1]
        rows = PYTORCH if backend == "pytorch" else KERAS
        room = _room_of_file(file)
        for module, _ in _imports(file):
            if module.startswith(f"autotrainer.backends.{backend}."):
                other = module.split(".")[3]
                below = _rank(rows, other) < _rank(rows, room)
                assert below or other == room, f"{file} imports {module}, which is not below it"


@pytest.mark.parametrize(
    ("folder", "rows"), [("autotrainer", CORE), ("backends/pytorch", PYTORCH), ("backends/keras3", KERAS)]
)
def test_contributing_lists_every_room_in_this_order(folder: str, rows: tuple[set[str], ...]) -> None:
    heading = "| in `autotrainer/` |" if folder == "autotrainer" else "| in `backends/<name>/` |"
    _, table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split(heading)
    cells = [line.split(" | ")[0] for line in table.split("\n\n")[0].splitlines()[2:]]
    listed = [name.removesuffix("/").removesuffix(".py") for cell in cells for name in cell.strip("| `").split("`, `")]
    rooms = {room for row in rows for room in row if not room.startswith("_")}
    ranks = [_rank(rows, room) for room in listed if room in rooms]
    assert rooms <= set(listed)
    assert ranks == sorted(ranks)
    assert all(
        any(
            (ROOT / top / name).exists() or (ROOT / top / f"{name}.py").exists()
            for top in ("autotrainer", "backends/pytorch", "backends/keras3")
        )
        for name in listed
    )


def _graph() -> dict[str, set[str]]:
    """Return which module imports which, within the four packages, as far as both are files."""
    files = [file for top in ("autotrainer", "backends", "rules", "repairs") for file in _files(top)]

    def name(file: str) -> str:
        dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return dotted if dotted.startswith("autotrainer") else f"autotrainer.{dotted}"

    modules = {name(file): file for file in files}
    graph = {}
    for module, file in modules.items():
        targets: set[str] = set()
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ImportFrom):
                targets |= {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys() or {
                    node.module or ""
                }
        graph[module] = (targets & modules.keys()) - {module}
    return graph


def test_no_import_cycles() -> None:
    graph = _graph()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("top", ["autotrainer", "backends", "benchmarks"])
def test_folders_are_small(top: str) -> None:
    for folder in [ROOT / top, *(path for path in (ROOT / top).rglob("*") if path.is_dir())]:
        programs = ROOT / "benchmarks" / "scripts" / "programs"
        registry = programs in (folder, folder.parent)
        assert registry or len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_benchmarks_import_the_public_api_only() -> None:
    for file in _files("benchmarks"):
        import autotrainer

        public = {f"autotrainer.{name}" for name in autotrainer.__all__} | {"autotrainer"}
        for module, _ in _imports(file):
            # `experience` owns the form of the table that a benchmark makes
            allowed = public | {"autotrainer.search.experience"}
            public_modules = ("autotrainer.errors", "autotrainer.integrations")
            assert not module.startswith("autotrainer") or module in allowed or module.startswith(public_modules)

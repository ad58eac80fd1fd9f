"""The distribution contains all packages and data files."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("autotrainer", "backends", "rules", "repairs")


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _folders() -> set[str]:
    """Return the dotted names of all folders that hold Python files, as they are installed."""
    names = set()
    for top in TOP:
        for file in (ROOT / top).rglob("*.py"):
            name = ".".join(file.parent.relative_to(ROOT).parts)
            names.add(name if top == "autotrainer" else f"autotrainer.{name}")
    return names


def test_setup_cfg_lists_every_package() -> None:
    assert set(_setup()["options"]["packages"].split()) == _folders()


def test_listed_data_files_exist() -> None:
    for package, patterns in _setup()["options.package_data"].items():
        mapped = _setup()["options"]["package_dir"].split()
        folder = ROOT / mapped[mapped.index(package) + 2] if package in mapped else ROOT.joinpath(*package.split("."))
        for pattern in patterns.replace(",", " ").split():
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"
    files = {p for top in TOP for p in (ROOT / top).rglob("*") if p.is_file()}
    others = {p for p in files if p.suffix not in (".py", ".pyc")}
    assert {p.suffix or p.name for p in others} <= {
        *(".typed", ".j2", ".npz", ".json", ".js", ".css", ".html"),
        *("LICENSE", "LICENSE-d3", "NOTICE"),  # of the charting library
    }


def test_pyproject_has_no_metadata() -> None:
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))) == {"build-system", "tool"}


def test_type_checkers_find_mapped_folders() -> None:
    if not (ROOT / "typings" / "autotrainer" / "rules").is_symlink():
        pytest.skip("links were lost, as in a source distribution; only type checking needs them")
    for name in ("backends", "rules", "repairs"):
        assert (ROOT / "typings" / "autotrainer" / name).resolve() == ROOT / name


@pytest.mark.slow
def test_wheel_content(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
    # built from a copy, so that the checkout stays as it is
    copy = tmp_path / "source"
    ignored = (".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", "build", "dist", "tests", "benchmarks")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*ignored, "*.egg-info", "__pycache__"))
    subprocess.run([*pip, str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    installed = {  # of each data file
        "/".join([*(() if top == "autotrainer" else ("autotrainer",)), *path.relative_to(copy).parts])
        for top in TOP
        for path in (copy / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert installed <= names
    licenses = {name.partition(".dist-info/licenses/")[2] for name in names} - {""}
    assert {Path(each).name for each in licenses} == {"LICENSE", "LICENSE-d3", "NOTICE"}
    assert len(licenses) == 4, "ours, and the three of the charting library"
    for package in _folders():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"autotrainer"}

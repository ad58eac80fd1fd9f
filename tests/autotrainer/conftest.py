"""Scripted fits that search by evidence and by successive halving, to compare their results; a notebook; a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import autotrainer
from autotrainer import registry
from autotrainer.edits import ClipGradients, Edit, SetLearningRate, SetMomentum
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.repair import Dimension, Proposal, Repair, Risk
from autotrainer.rule import Rule
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from tests.autotrainer.reporting.notebook.fakes import Notebook

_DATA = (np.arange(400.0).reshape(200, 2), np.tile([0, 1], 100))


_AXE = "4.14.1"
"""Version of axe-core, which the accessibility is checked with."""
_CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


class _Bad(Rule):
    problem, code, needs = "bad_rate", "AT408", frozenset({"epochs"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        values = history.epochs("bad_rate")[1]
        return self.finding(Severity.ERROR, 0.9, "it is bad", {"value": values[-1]}) if values.size else None


class _Rate(Repair):
    name, risk = "scale_learning_rate", Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {"bad_rate": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield from (Proposal(self.name, (SetLearningRate(rate),), 0.5 - rate) for rate in (0.01, 0.02))

    def dimension(self, context: TaskContext) -> Dimension | None:
        return Dimension(self.name, tuple((SetLearningRate(10.0**power),) for power in range(-4, 2)))


class _Momentum(_Rate):
    name = "add_momentum"

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield Proposal(self.name, (ClipGradients("norm", 1.0),), 0.3)

    def dimension(self, context: TaskContext) -> Dimension | None:
        return Dimension(self.name, tuple((SetMomentum(share),) for share in (0.5, 0.9, 0.99)))


@dataclass
class Story:
    """A `fit` of a model that no repair makes healthy, with scores that depend on the edits.

    Attributes:
        notes: File to which the process id of each training is appended, one per line.
    """

    notes: Path

    def fit(self, before: Callable[[tuple[Edit, ...], int], Any] | None = None, **options: Any) -> dict[str, Any]:
        """Return the result as a dict that equal fits share.

        Args:
            before: Called at the beginning of each training with its edits and the number of earlier trainings.
            **options: Arguments of `autotrainer.fit`.
        """
        notes = self.notes

        def script(edits: tuple[Edit, ...]) -> Outcome:
            number = len(notes.read_text().splitlines())
            with notes.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if before is not None:
                before(edits, number)
            raises: dict[int, BaseException] = {0: ValueError("diverged")} if SetMomentum(0.5) in edits else {}
            share = zlib.crc32(repr(edits).encode()) % 60 / 100
            return Outcome(0.4 + share if edits else 0.5, {"bad_rate": 1.0}, raises=raises)

        options = {"epochs": 9, "budget": 12.0, "progress": False, "test_data": _DATA, **options}
        result = autotrainer.fit(FakeModel(script), _DATA, _DATA, **options)
        plain = {name: getattr(result, name) for name in result.__slots__ if name not in ("model", "optimizer")}
        return {**plain, "model": replace(result.model, script=lambda edits: Outcome()).__dict__ | {"script": None}}

    @property
    def processes(self) -> list[int]:
        """The process id of each training so far."""
        return [int(line) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Story:
    """A story in which `fit` has only the fake framework, one rule that always fires, and two repairs."""
    backend = FakeBackend()
    monkeypatch.setattr(registry, "rules", lambda: (_Bad,))
    monkeypatch.setattr(registry, "repairs", lambda: (_Rate, _Momentum))
    monkeypatch.setattr(registry, "backends", lambda: (backend,))
    (tmp_path / "notes").touch()
    return Story(tmp_path / "notes")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook whose cell runs: it keeps what is displayed below."""
    shown = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", shown)
    return shown


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no Chromium on the path: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def violations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], list[tuple[str, list[str]]]]:
    """Checks the accessibility of a page by axe-core, from the npm registry: each violation, and where it is."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core comes from the npm registry, and there is no npm")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", "--silent", f"axe-core@{_AXE}"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"axe-core can't be had from the npm registry: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        source = member.read().decode("utf-8")

    def check(page: Any) -> list[tuple[str, list[str]]]:
        page.evaluate(source)
        found = page.evaluate("axe.run().then((result) => result.violations)")
        return [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in found]

    return check

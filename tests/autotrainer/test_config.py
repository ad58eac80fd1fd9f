"""`[tool.autotrainer]` of pyproject.toml: search in parent folders, precedence, and invalid settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from autotrainer import Loop, fit, watch
from autotrainer.config import ProjectSettings, log_folder, project_settings
from autotrainer.errors import ConfigError
from autotrainer.registry import make_rules

TABLE = """
[tool.autotrainer]
select = ["AT1", "not_learning"]
ignore = ["AT102"]
[tool.autotrainer.thresholds]
"vanishing_gradient.ratio" = 1e-5
not_learning.schedule = 0.5
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inner = tmp_path / "src" / "train"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path


def problems(**options: object) -> set[str]:
    return {rule.problem for rule in make_rules(**options)}  # type: ignore[arg-type]


def test_table_is_found_in_parent_folders(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)
    (project / "src" / "pyproject.toml").write_text("[tool.other]\nselect = ['tool.autotrainer']\n")

    settings = project_settings()

    assert settings.path == project / "pyproject.toml"
    assert settings.select == ("AT1", "not_learning")
    assert settings.thresholds == {"vanishing_gradient.ratio": 1e-5, "not_learning.schedule": 0.5}


def test_defaults_without_a_table(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")

    assert project_settings(project) == ProjectSettings()


def test_project_settings_configure_rules(project: Path) -> None:
    everything = problems()
    (project / "pyproject.toml").write_text(TABLE)

    rules = {rule.problem: rule for rule in make_rules()}

    assert set(rules) < everything
    assert "exploding_gradient" not in rules
    assert "dying_relu" not in rules
    assert rules["vanishing_gradient"].threshold("ratio") == 1e-5
    assert rules["not_learning"].threshold("schedule") == 0.5


def test_arguments_override_project_settings(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)

    assert problems(select="AT2") >= {"dying_relu"}
    assert "exploding_gradient" not in problems(select="AT1")  # ignored by the project
    rule = next(r for r in make_rules(thresholds={"beta_1": 0.5}) if r.problem == "vanishing_gradient")
    assert rule.threshold("ratio") == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.autotrainer]\nselekt = []\n", "did you mean 'select'"),
        ("[tool.autotrainer]\nselect = 3\n", "must be a list of names"),
        ("[tool.autotrainer]\nignore = ['dying_relo']\n", "dying_relu"),
        ("[tool.autotrainer.thresholds]\nbeta_1 = 'low'\n", "must be a number"),
        ("[tool.autotrainer.thresholds]\nbeta_9 = 1\n", "unknown threshold"),
        ("[tool.autotrainer]\nthresholds = 3\n", "must be a table"),
        ("[tool]\nautotrainer = 3\n# tool.autotrainer\n", "must be a table"),
        ("[tool.autotrainer\n", "is not valid TOML"),
    ],
)
def test_invalid_table_is_rejected_with_its_path(project: Path, text: str, message: str) -> None:
    (project / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigError, match=message) as caught:
        make_rules()
    assert str(project / "pyproject.toml") in str(caught.value)


def test_missing_table_and_deleted_folder_are_ignored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "pyproject.toml").write_text('tool = "not tool.autotrainer"\n')
    assert project_settings() == ProjectSettings()

    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert project_settings() == ProjectSettings()


_BROKEN = {
    "deep array": "select = " + "[" * 10_000 + "]" * 10_000,
    "deep table": "thresholds = " + "{a = " * 5_000 + "1" + "}" * 5_000,
    "deep keys": "thresholds." + ".".join("a" * 5_000) + " = 1",
    "number of 400 digits": f'thresholds = {{"vanishing_gradient.ratio" = 1{"0" * 400}}}',
    "negative number of 400 digits": f'thresholds = {{"vanishing_gradient.ratio" = -1{"0" * 400}}}',
    "number of 5,000 digits": f'thresholds = {{"vanishing_gradient.ratio" = 1{"0" * 5000}}}',
    "number in a table": f"thresholds.vanishing_gradient.ratio = 1{'0' * 400}",
    "huge float": 'thresholds = {"vanishing_gradient.ratio" = -1e999}',
    "nan": 'thresholds = {"vanishing_gradient.ratio" = nan}',
    "boolean": 'thresholds = {"vanishing_gradient.ratio" = true}',
    "date": 'thresholds = {"vanishing_gradient.ratio" = 2020-01-01}',
    "array": 'thresholds = {"vanishing_gradient.ratio" = [1]}',
    "table of tables": "thresholds.a.b.c = 1",
    "empty name": 'thresholds = {"" = 1}',
    "hostile name": 'thresholds = {"\\u001b[31m" = 1}',
    "select of numbers": "select = [1]",
    "select of arrays": "select = [[]]",
    "select is a table": "select = {}",
    "select is a date": "select = 2020-01-01",
    "hostile select": 'select = ["\\u001b[31m\\n"]',
    "empty select": 'select = [""]',
    "unknown key": '"\\u001b[31m" = 1',
    "long key": "x" * 100_000 + " = 1",
    "no value": "select =",
    "repeated": "select = []\nselect = []",
    "unfinished text": 'select = ["a',
    "control character": "select = ['\x07']",
    "not TOML": "{}",
}


def test_broken_files_are_config_errors(project: Path, record_property: Callable[..., None]) -> None:
    path = project / "pyproject.toml"
    contents = {label: f"[tool.autotrainer]\n{text}\n".encode() for label, text in _BROKEN.items()}
    contents |= {
        "Latin-1": b"# caf\xe9\n[tool.autotrainer]\n",
        "byte order mark": b"\xef\xbb\xbf[tool.autotrainer]\n",
        "NUL": b"[tool.autotrainer]\n\0",
        "binary": bytes(range(256)) + b"tool.autotrainer",
    }
    record_property("attacks", len(contents))
    for label, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            make_rules()
        assert str(path) in str(caught.value), label


def test_what_is_no_file_of_settings_is_ignored(project: Path, record_property: Callable[..., None]) -> None:
    record_property("attacks", 5)
    path = project / "pyproject.toml"
    everything = problems()
    path.mkdir()
    assert problems() == everything
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for a writer
    assert problems() == everything
    path.unlink()
    for target in ("/dev/zero", "/nothing", str(path)):
        path.symlink_to(target)
        assert problems() == everything
        path.unlink()


_NO_PATHS = [
    "",
    b"logs",
    b"",
    "a\0b",
    "\0",
    "\ud800",
    "a/\udfff/b",
    5,
    0,
    1.5,
    True,
    False,
    ["logs"],
    (),
    {},
    object(),
    str,
    Path,
]


@pytest.mark.parametrize("value", _NO_PATHS, ids=lambda value: ascii(value)[:20])
def test_log_dir_that_can_not_be_a_path(value: object, record_property: Callable[..., None]) -> None:
    record_property("attacks", 4)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = TensorDataset(torch.zeros(8, 2), torch.zeros(8, 1))
    arguments: dict[str, Any] = {"epochs": 1, "log_dir": value}
    loss = torch.nn.MSELoss()
    with pytest.raises(ConfigError, match="log_dir"):
        log_folder(value)
    with pytest.raises(ConfigError, match="log_dir"):
        watch(model, optimizer, **arguments)
    with pytest.raises(ConfigError, match="log_dir"):
        fit(model, data.tensors, loss=loss, optimizer=optimizer, **arguments)
    with pytest.raises(ConfigError, match="log_dir"):
        Loop(model, optimizer, loss, DataLoader(data), **arguments)


def test_log_dir_that_can_not_be_written_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Callable[..., None]
) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (tmp_path / "file").write_text("")
    folders: list[str | Path] = [tmp_path / "file", tmp_path / "file" / "x", "/proc/logs", "/dev/null", "x" * 5000,
                                 "/dev/full/x", Path("/proc/1/logs")]  # fmt: skip
    record_property("attacks", len(folders))
    for folder in folders:
        caplog.clear()
        with watch(model, optimizer, log_dir=folder) as monitor:
            assert monitor.log_path is None
        assert "the run log failed" in caplog.text
    with watch(model, optimizer, log_dir=os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) as monitor:
        assert monitor.log_path is not None

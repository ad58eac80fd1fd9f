"""`[tool.autotrainer]` of pyproject.toml: search in parent folders, precedence, and invalid settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrainer.config import ProjectSettings, project_settings
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

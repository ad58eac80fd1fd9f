"""`[tool.autotrainer]` of pyproject.toml: found from below, joined with what is given, refused with the file's name."""

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


def problems(**given: object) -> set[str]:
    return {rule.problem for rule in make_rules(**given)}  # type: ignore[arg-type]


def test_the_table_is_found_from_a_folder_below(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)
    (project / "src" / "pyproject.toml").write_text("[tool.other]\nselect = ['tool.autotrainer']\n")

    found = project_settings()

    assert found.path == project / "pyproject.toml"
    assert found.select == ("AT1", "not_learning")
    assert found.thresholds == {"vanishing_gradient.ratio": 1e-5, "not_learning.schedule": 0.5}


def test_without_a_table_nothing_changes(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")

    assert project_settings(project) == ProjectSettings()


def test_the_rules_follow_the_project(project: Path) -> None:
    everything = problems()
    (project / "pyproject.toml").write_text(TABLE)

    rules = {rule.problem: rule for rule in make_rules()}

    assert set(rules) < everything
    assert "exploding_gradient" not in rules
    assert "dying_relu" not in rules
    assert rules["vanishing_gradient"].threshold("ratio") == 1e-5
    assert rules["not_learning"].threshold("schedule") == 0.5


def test_what_is_given_goes_before(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)

    assert problems(select="AT2") >= {"dying_relu"}
    assert "exploding_gradient" not in problems(select="AT1")  # ignored by the project
    rule = next(r for r in make_rules(thresholds={"beta_1": 0.5}) if r.problem == "vanishing_gradient")
    assert rule.threshold("ratio") == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool.autotrainer]\nselekt = []\n", "did you mean 'select'"),
        ("[tool.autotrainer]\nselect = 3\n", "must be a list of names"),
        ("[tool.autotrainer]\nignore = ['dying_relo']\n", "dying_relu"),
        ("[tool.autotrainer.thresholds]\nbeta_1 = 'low'\n", "must be a number"),
        ("[tool.autotrainer.thresholds]\nbeta_9 = 1\n", "unknown threshold"),
        ("[tool.autotrainer]\nthresholds = 3\n", "must be a table"),
        ("[tool]\nautotrainer = 3\n# tool.autotrainer\n", "must be a table"),
        ("[tool.autotrainer\n", "no valid TOML"),
    ],
)
def test_a_wrong_table_is_refused_with_its_file(project: Path, text: str, says: str) -> None:
    (project / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigError, match=says) as caught:
        make_rules()
    assert str(project / "pyproject.toml") in str(caught.value)


def test_a_file_without_tools_and_a_folder_that_is_gone_say_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pyproject.toml").write_text('tool = "not tool.autotrainer"\n')
    assert project_settings() == ProjectSettings()

    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert project_settings() == ProjectSettings()

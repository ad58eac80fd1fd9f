"""Places in the user's files: layers located by parsing the source, calls by the stack frame."""

from __future__ import annotations

import importlib.util
import linecache
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from autotrainer.monitoring import source_lines

CODE = """
class Dense:
    def __init__(self, units, name=None):
        self.units = units


class Relu:
    pass


class Sequential:
    def __init__(self, *parts):
        self.parts = parts


class Block:
    def __init__(self):
        self.inner = Dense(4)
        self.body = Sequential(
            Dense(3),
            Relu(),
            Dense(2, name="last"),
        )


class Net:
    def __init__(self):
        self.block: Block = Block()
        self.many = [Dense(1) for _ in range(3)]


def flat():
    return Sequential(
        Dense(5),
        Relu(),  # flat
    )


def call(function):
    return function()
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "train.py"
    path.write_text(CODE)
    monkeypatch.chdir(tmp_path)
    linecache.checkcache()
    spec = importlib.util.spec_from_file_location("users_training", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "users_training", module)
    spec.loader.exec_module(module)
    source_lines._tree.cache_clear()
    return module


def line_of(text: str) -> str:
    number = next(i for i, line in enumerate(CODE.splitlines(), 1) if text in line)
    return f"train.py:{number}"


def test_layer_is_located_at_its_attribute(user: Any) -> None:
    net = user.Net()
    block = net.block

    place = source_lines.layer_line([(net, "block", ()), (block, "inner", ())], "Dense", "inner", 6, user.__file__)

    assert place == line_of("self.inner")


def test_numbered_part_is_located_among_arguments(user: Any) -> None:
    net = user.Net()
    kinds = ["Dense", "Relu", "Dense"]
    path = [(net, "block", ()), (net.block, "body", ()), (net.block.body, "2", kinds)]

    assert source_lines.layer_line(path, "Dense", "2", 6, user.__file__) == line_of('name="last"')


def test_sequence_without_class_is_located_in_the_file(user: Any) -> None:
    path = [(user.flat(), "1", ["Dense", "Relu"])]

    assert source_lines.layer_line(path, "Relu", "1", 1, user.__file__) == line_of("Relu(),  # flat")


def test_layers_created_in_a_loop_share_a_line(user: Any) -> None:
    net = user.Net()
    path = [(net, "many", ()), (net.many, "1", ["Dense"] * 3)]

    assert source_lines.layer_line(path, "Dense", "1", 6, user.__file__) == line_of("self.many")


def test_layer_is_located_by_its_name_argument(user: Any) -> None:
    assert source_lines.layer_line([], "Dense", "last", 6, user.__file__) == line_of('name="last"')


def test_ambiguous_layers_have_no_place(user: Any) -> None:
    assert source_lines.layer_line([], "Dense", "other", 6, user.__file__) == ""
    assert source_lines.layer_line([(object(), "0", ["Dense"])], "Dense", "0", 6, user.__file__) == ""
    assert source_lines.layer_line([], "Dense", "last", 6, "") == ""


def test_call_is_located_in_the_users_frame(user: Any) -> None:
    assert user.call(source_lines.calling_line).startswith(line_of("return function()"))
    assert user.call(source_lines.calling_file) == user.__file__


def test_invalid_python_has_no_place(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("class (:\n")

    assert source_lines.layer_line([], "Dense", "last", 1, str(path)) == ""


def test_class_of_an_interactive_session_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    session = types.ModuleType("__main__")  # as in `python -c` or a shell: a module without a file
    monkeypatch.setitem(sys.modules, "__main__", session)
    exec("class Net:\n    def __init__(self):\n        self.part = object()\n", vars(session))

    assert source_lines.layer_line([(session.Net(), "part", ())], "Dense", "part", 1, "") == ""

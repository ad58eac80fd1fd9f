"""Crafted plans: whatever a file or a caller gives, there is a plan that makes sense, or an error of autotrainer."""

from __future__ import annotations

import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer import edits as e
from autotrainer import load_plan
from autotrainer.errors import ConfigError, InputError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.testing import every_edit

FRAMEWORKS = ("pytorch", "keras3")


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


class Text(str):
    """A string that is not quite one."""

    def __repr__(self) -> str:
        return "__import__('os').system('echo')"


class Hostile:
    """An object whose every method raises."""

    shape = ()

    def item(self) -> Any:
        raise RuntimeError("item")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("iter")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


NUMBERS: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -1.5, 0, 0.0, -0.0, 5e-324, 1e308, 1.5, 1, 2, 10**30, -(10**30), 10**400, 2**63,
]  # fmt: skip
TEXTS = ["", "x", "1", "nan", "norm", "relu\x1b[31m", "a\nimport os", "a\u202eb", "\ud800", "\0", "x" * 20_000, "é"]
OTHERS: list[Any] = [
    None, True, False, [], {}, [None], [[]], [1, "x"], ["x", 1], [""], ["a", "a"], ["a\nb"], [math.nan], [-1], [0],
    [1.0] * 2_000, [[1.0, 2.0], [3.0, 4.0]], {"a": 1}, {"__class__": "os.system"}, [10**400], ["\ud800"], nested(900),
]  # fmt: skip
VALUES: list[Any] = [*NUMBERS, *TEXTS, *OTHERS]
"""What JSON can hold."""
OBJECTS: list[Any] = [
    np.float64("nan"), np.float32("inf"), np.int64(-1), np.uint64(2**64 - 1), np.bool_(True), np.array(1.0),
    np.array([]), np.zeros((2, 2)), np.array(["a"]), np.array([None, "x"], dtype=object), np.datetime64("2020"), 1j,
    b"x", bytearray(b"x"), {1}, (), ((),), range(3), object(), int, len, Hostile(), [Hostile()], Text("x"), [Text("x")],
    nested(10_000), nested(10_000, dict), (value for value in "ab"), 10**5000, Ellipsis, memoryview(b"ab"),
]  # fmt: skip
"""What only a caller can give."""


def plan_of(edit: e.Edit, framework: str = "pytorch") -> dict[str, Any]:
    plan = RepairPlan(("x",), (edit,), ("nonfinite",), framework, ("a", "b"), 2, {"nonfinite": "train.py:3"})
    values: dict[str, Any] = json.loads(plan.to_json())
    return values


def attack(make: Callable[[], RepairPlan]) -> bool:
    """Make a plan, and do everything with it that needs no model; return whether it was accepted."""
    try:
        plan = make()
    except InputError as error:
        message = str(error)
        check_printed(message)
        assert len(message) < 5000
        return False
    check_values(plan)
    text = str(plan)
    check_printed(text.replace("\n", ""))
    assert len(text) < 1_500_000
    assert plan.changes is not None
    assert RepairPlan.from_dict(json.loads(plan.to_json())) == plan
    repr(plan)
    hash(plan.edits)
    return True


def check_printed(text: str) -> None:
    assert text.isprintable(), [c for c in text if not c.isprintable()][:5]


def check_values(plan: RepairPlan) -> None:
    """Check values of an accepted plan, independently of how edits do it."""
    assert type(plan.start) is int
    assert 0 <= plan.start <= 10**9
    assert all(type(name) is str for name in (*plan.repairs, *plan.problems, *plan.layers, plan.framework))
    assert all(type(text) is str for item in plan.places.items() for text in item)
    for edit in plan.edits:
        for name, value in edit.to_dict().items():
            for item in value if isinstance(value, tuple) else (value,):
                assert type(item) in (int, float, str, bool, type(None)), (edit, name)
                assert not isinstance(item, float) or math.isfinite(item)
                assert not isinstance(item, int) or abs(item) <= sys.maxsize
                assert item != ""


def from_file(path: Path, content: str | bytes) -> Callable[[], RepairPlan]:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return lambda: load_plan(path)


EDITS = every_edit(("a", "b"))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
def test_each_value_in_each_field_of_an_edit(
    edit: e.Edit, tmp_path: Path, record_property: Callable[[str, int], None]
) -> None:
    attacks = accepted = 0
    for number, field in enumerate(fields(edit)):
        for value in VALUES:
            content = {**plan_of(edit, FRAMEWORKS[number % 2])}
            content["edits"][0][field.name] = value
            accepted += attack(from_file(tmp_path / "plan.json", json.dumps(content)))
            attacks += 1
        for value in OBJECTS:
            values = {f.name: getattr(edit, f.name) for f in fields(edit)}
            accepted += attack(lambda: RepairPlan(("x",), (type(edit)(**{**values, field.name: value}),)))  # noqa: B023
            accepted += attack(
                lambda: RepairPlan.from_dict({**content, "edits": [{**edit.to_dict(), field.name: value}]})  # noqa: B023
            )
            attacks += 2
    for names in ({"": 1}, {"edit ": 1}, {"unknown": nested(900)}, {"__class__": "os.system"}, {"edit": "os.system"}):
        content = plan_of(edit)
        content["edits"][0].update(names)
        with pytest.raises(ConfigError):
            from_file(tmp_path / "plan.json", json.dumps(content))()
        attacks += 1
    record_property("attacks", attacks)
    assert accepted < attacks


VALID = plan_of(e.ClipGradients("norm", 1.0))


@pytest.mark.parametrize("key", VALID)
def test_each_value_in_each_key_of_a_plan(
    key: str, tmp_path: Path, record_property: Callable[[str, int], None]
) -> None:
    for value in VALUES:
        attack(from_file(tmp_path / "plan.json", json.dumps({**VALID, key: value})))
        attack(from_file(tmp_path / "plan.json", json.dumps({**VALID, key: [value]})))
        attack(from_file(tmp_path / "plan.json", json.dumps({**VALID, key: {"nonfinite": value}})))
    for value in OBJECTS:
        attack(lambda: RepairPlan.from_dict({**VALID, key: value}))  # noqa: B023
        attack(lambda: RepairPlan.from_dict({**VALID, key: {"nonfinite": value}}))  # noqa: B023
    if key not in ("layers", "start", "places"):
        with pytest.raises(ConfigError):
            RepairPlan.from_dict({k: v for k, v in VALID.items() if k != key})
    record_property("attacks", 3 * len(VALUES) + 2 * len(OBJECTS) + 1)


def test_values_that_are_no_plan(record_property: Callable[[str, int], None]) -> None:
    for value in [*VALUES, *OBJECTS]:
        assert not attack(lambda: RepairPlan.from_dict(value))  # noqa: B023
    record_property("attacks", len(VALUES) + len(OBJECTS))


def test_unknown_and_repeated_keys_are_refused(tmp_path: Path, record_property: Callable[[str, int], None]) -> None:
    valid = plan_of(e.SetBatchSize(8))
    text = json.dumps(valid)
    attacks = 0
    for key in ("strat", "Start", "", "edit", "__class__", "start\n", "x" * 10_000):
        with pytest.raises(ConfigError, match=r"the repair plan has no"):
            from_file(tmp_path / "plan.json", json.dumps({**valid, key: 1}))()
        attacks += 1
    for key, again in {**valid, "size": 9, "edit": "ShuffleData"}.items():
        doubled = re.sub(rf'("{key}":)', lambda m: f"{m[1]} {json.dumps(again)}, {m[1]}", text, count=1)  # noqa: B023
        with pytest.raises(ConfigError, match=f"'{key}' appears twice"):
            from_file(tmp_path / "plan.json", doubled)()
        attacks += 1
    record_property("attacks", attacks)


JUNK = [
    b"", b"null", b"0", b'"', b"{", b"[", b"}", b"]", b"\\", b"\xff", b"\x00", b"NaN", b"-", b"1e999", b",", b":",
    b'"\\ud800"', b"\xef\xbb\xbf", b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"true", b"\x1b", b"\xe2\x80\xae",
]  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 40)))
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:start] + rng.choice(JUNK) + data[end:]
        elif kind == 1:
            data = data[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + data[end:]
        elif kind == 2:
            data = data[:end] + data[start:end] + data[end:]
        elif kind == 3:
            other = rng.randrange(len(data) + 1)
            data = data[:start] + data[other : other + end - start] + data[end:]
        else:
            data = data[:start] if rng.random() < 0.1 else data[:start] + data[end:]
    return data


@pytest.mark.parametrize("cases", [300, pytest.param(8_000, marks=pytest.mark.slow)])
def test_damaged_files(cases: int, tmp_path: Path, record_property: Callable[[str, int], None]) -> None:
    rng = random.Random(cases)
    plans = [json.dumps(plan_of(edit), indent=rng.choice((None, 2))).encode() for edit in EDITS]
    plans.append(RepairPlan(("x", "y"), EDITS, ("z",), "keras3", ("a", "b")).to_json().encode())
    accepted = sum(attack(from_file(tmp_path / "plan.json", mutate(rng.choice(plans), rng))) for _ in range(cases))
    record_property("attacks", cases)
    assert 0 < accepted < cases, "some mutations must be harmless, or the fuzzer tests nothing but the parser"


def test_large_and_strange_files(tmp_path: Path, record_property: Callable[[str, int], None]) -> None:
    path = tmp_path / "plan.json"
    valid = json.dumps(plan_of(e.SetBatchSize(8)))
    with path.open("wb") as file:
        file.truncate(16 * 2**20 + 1)  # sparse
    with pytest.raises(ConfigError, match="larger than"):
        load_plan(path)
    bombs = [
        "[" * 10**6, '{"a":' * 10**6, valid.replace("8", "8" * 4000), "\ufeff" + valid, f'"{"x" * 10**7}"', "\0" * 100,
        "[" + "[]," * 10**5 + "[]]", valid.replace("SetBatchSize", "x" * 10**7), "", " " * 10**6,
    ]  # fmt: skip
    for bomb in bombs:
        assert not attack(from_file(path, bomb)), bomb[:50]
    for encoding in ("utf-16", "utf-32", "utf-16-le"):
        assert not attack(from_file(path, valid.encode(encoding)))
    record_property("attacks", len(bombs) + 4)


def test_paths_that_are_no_file(tmp_path: Path, record_property: Callable[[str, int], None]) -> None:
    class Fspath:
        def __fspath__(self) -> Any:
            return b"plan.json"

    paths: list[Any] = [
        tmp_path, tmp_path / "none" / "plan.json", "", ".", "\0", "a\0b", "\ud800", "x" * 5000, "a\x1b[31m\nb\u202e",
        None, 0, 1, True, 3.5, b"plan.json", [], {}, object(), Hostile(), Fspath(), Fspath, float("nan"),
    ]  # fmt: skip
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        paths += [tmp_path / "pipe", tmp_path / "loop", "/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem"]
    for path in paths:
        assert not attack(lambda: load_plan(path)), path  # noqa: B023
    record_property("attacks", len(paths))

"""Every argument of every public call refuses what it can't take: at once, by name, and without a trace."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.edits import SetLearningRate
from autotrainer.errors import ConfigError, DataError, InputError


class Unprintable:
    """An object whose text can't be made."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class AnyAttribute:
    """An object that has every attribute and item, none of them of use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


async def _coroutine() -> None:
    return None


NONSENSE: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "one": lambda: 1,
    "negative": lambda: -3,
    "huge": lambda: 10**5000,
    "fraction": lambda: 0.5,
    "above one": lambda: 2.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "complex": lambda: 1j,
    "text": lambda: "nonsense",
    "empty text": lambda: "",
    "long text": lambda: "x" * 100_000,
    "surrogates": lambda: "\udcff\x00\x1b[31m\n",
    "bytes": lambda: b"adam",
    "empty list": lambda: [],
    "nested list": lambda: [[], [[]]],
    "list of objects": lambda: [object()],
    "list of numbers": lambda: [1, 2.5],
    "list of none": lambda: [None],
    "set": lambda: {1, 2},
    "odd dict": lambda: {None: object(), 3: []},
    "empty dict": lambda: {},
    "class": lambda: dict,
    "builtin": lambda: len,
    "lambda": lambda: lambda *args, **kwargs: None,
    "generator": lambda: (i for i in ()),
    "coroutine": _coroutine,
    "module": lambda: math,
    "object": object,
    "unprintable": Unprintable,
    "any attribute": AnyAttribute,
    "mock": MagicMock,
    "array": lambda: np.zeros(3),
    "numpy text": lambda: np.str_("nonsense"),
    "numpy nan": lambda: np.float64("nan"),
    "tensor": lambda: torch.zeros(2, 2),
    "exception": lambda: ValueError("nonsense"),
    "ellipsis": lambda: ...,
    "duration": lambda: timedelta(seconds=-1),
    "namespace": lambda: types.SimpleNamespace(shape=(), item=lambda: "x"),
}

NONE = {"none"}
WHOLE = {"one"}
FROM_ZERO = {"zero", "one"}
TRUTH = {"true"}
NO_NAMES = {"empty list", "generator", "empty dict", "mock"}
CALLABLE = {"lambda", "builtin", "class", "any attribute", "mock"}
TEXTS = {"text", "empty text", "long text", "surrogates", "numpy text"}

# What each argument accepts of `NONSENSE`: everything else must be refused. The second item replaces its name as the
# word that the message must contain.
RULES = {
    "select": (NONE | NO_NAMES, "problem|select"),
    "ignore": (NO_NAMES, "problem|ignore"),
    "thresholds": (NONE | {"empty dict"}, "threshold"),
}
MANAGED = {
    "epochs": (WHOLE, "epochs"),
    "repair": (TRUTH, "repair"),
    "strategy": (set[str](), "strategy"),
    "max_change": (FROM_ZERO, "max_change"),
    "extra_memory": (TRUTH, "extra_memory"),
    "keep": (NO_NAMES, "keep"),
    "forbid": (NO_NAMES, "forbid"),
    "budget": (NONE | {"one", "fraction", "above one", "inf"}, "budget"),
    "seed": (FROM_ZERO, "seed"),
    "progress": (TRUTH, "progress"),
    "mode": (NONE, "mode"),
    **RULES,
}
OPTIONS: dict[str, Mapping[str, tuple[set[str], str]]] = {
    "fit": {
        "batch_size": (WHOLE, "batch_size"),
        "metric": (CALLABLE, "metric"),
        "fit_args": (NONE | {"empty dict"}, "fit_args"),
        "workers": (WHOLE, "workers"),
        "resume": (set(), "resume"),
        **MANAGED,
        "progress": (TRUTH | CALLABLE, "progress"),
    },
    "watch": {
        "epochs": (NONE | WHOLE, "epochs"),
        "steps": (NONE | WHOLE, "steps"),
        "overhead": ({"one", "fraction"}, "overhead"),
        "on_finding": (NONE | CALLABLE, "on_finding"),
        **RULES,
    },
    "check": RULES,
    "Loop": {"score": (NONE | TEXTS, "score"), **MANAGED},
}
MODEL = {"model": (set[str](), "model")}
DATA = {**MODEL, "train_data": (set[str](), "train_data")}
LISTS = {"nested list", "list of objects", "list of numbers", "list of none", "array", "tensor", "any attribute"}
OBJECTS: dict[str, dict[str, Mapping[str, tuple[set[str], str]]]] = {
    "pytorch": {
        "fit": {
            **DATA,
            "validation_data": (NONE, "validation_data"),
            "test_data": (NONE, "test_data"),
            "loss": (CALLABLE - {"class"}, "loss"),
            "optimizer": (CALLABLE, "optimizer"),
            "step": (NONE | CALLABLE, "step"),
            "scheduler": (NONE | CALLABLE, "scheduler"),
        },
        "watch": {**MODEL, "optimizer": (set(), "ptimizer"), "loss_fn": (NONE | CALLABLE - {"class"}, "loss_fn")},
        "check": {
            **DATA,
            "loss": (NONE | CALLABLE - {"class"}, "loss"),
            "optimizer": (NONE, "ptimizer"),
        },
        "Loop": {
            **MODEL,
            "optimizer": (set(), "optimizer"),
            "loss_fn": (CALLABLE - {"class"}, "loss_fn"),
            "train_loader": (LISTS, "train_loader"),
            "scheduler": (NONE | CALLABLE, "scheduler"),
            "scaler": (NONE | {"any attribute", "mock"}, "scaler"),
        },
    },
    "keras3": {
        "fit": {
            **DATA,
            "validation_data": (NONE, "validation_data"),
            "test_data": (NONE, "test_data"),
            "loss": (NONE | CALLABLE - {"class"}, "loss"),
            "optimizer": (NONE, "optimizer"),
            "step": (NONE, "step"),
            "scheduler": (NONE, "scheduler"),
        },
        "watch": {**MODEL, "optimizer": (NONE, "optimizer"), "loss_fn": (NONE, "loss")},
        "check": {
            **DATA,
            "loss": (NONE | CALLABLE - {"class"}, "loss"),
            "optimizer": (NONE, "optimizer"),
        },
    },
}
CASES = [
    (kit, call, name)
    for kit, objects in OBJECTS.items()
    for call in objects
    for name in (*OPTIONS[call], *objects[call])
]


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own: some objects are valid names of a folder to write to."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("kit", "call", "name"), CASES)
def test_options_refuse_nonsense(
    kits: Any, kit: str, call: str, name: str, record_property: Callable[[str, Any], None]
) -> None:
    accepted, word = {**OPTIONS[call], **OBJECTS[kit][call]}[name]
    mistakes: list[str] = []
    attacks = 0
    for label, make in NONSENSE.items():
        if label in accepted:
            continue
        value = make()
        attacks += 1
        problem = kits[kit].refuses(call, *word.split("|"), **{name: value})
        if hasattr(value, "close") and isinstance(value, types.CoroutineType):
            value.close()
        if problem:
            mistakes.append(f"{call}({name}=<{label}>) {problem}")
    record_property("attacks", attacks)
    assert not mistakes, "\n" + "\n".join(mistakes)


@pytest.mark.parametrize("name", ["select", "ignore", "thresholds"])
def test_replay_options_refuse_nonsense(name: str, record_property: Callable[[str, Any], None]) -> None:
    accepted, words = RULES[name]
    rows = [label for label in NONSENSE if label not in accepted and label != "coroutine"]
    for label in rows:
        with pytest.raises(ConfigError) as raised:
            autotrainer.replay("no file", **{name: NONSENSE[label]()})
        assert any(word in str(raised.value) for word in words.split("|")), label
    record_property("attacks", len(rows))


@pytest.mark.parametrize("kit", ["pytorch", "keras3"])
def test_plans_refuse_nonsense(kits: Any, kit: str, record_property: Callable[[str, Any], None]) -> None:
    plan = autotrainer.RepairPlan((), (SetLearningRate(0.1),), framework=kit)
    before = kits[kit].state()
    rows = [label for label in NONSENSE if label != "coroutine"]
    for label in rows:
        with pytest.raises(InputError):
            plan.apply(NONSENSE[label]())
        if label != "none":
            with pytest.raises(InputError):
                plan.apply(kits[kit].model, NONSENSE[label]())
    assert kits[kit].state() == before
    record_property("attacks", 2 * len(rows))


@pytest.mark.parametrize("name", ["loss", "outputs", "targets"])
def test_logged_nonsense_never_hurts(
    name: str, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, Any], None]
) -> None:
    rows = [label for label in NONSENSE if label != "coroutine"]
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for label in rows:
        caplog.clear()
        with autotrainer.watch(model, optimizer, select="nonfinite") as monitor:
            for _ in range(2):
                loss = model(torch.ones(2, 4)).sum()
                loss.backward()
                monitor.log(**{"loss": loss, name: NONSENSE[label]()})
                optimizer.step()
        assert len([r for r in caplog.records if "is switched off" in r.getMessage()]) <= 1, label
    record_property("attacks", len(rows))


def test_epoch_values_refuse_nonsense(record_property: Callable[[str, Any], None]) -> None:
    numbers = {"zero", "one", "negative", "fraction", "above one", "nan", "inf", "numpy nan", "mock"}
    rows = [label for label in NONSENSE if label not in numbers and label != "coroutine"]
    model = nn.Linear(4, 1)
    with autotrainer.watch(model, torch.optim.SGD(model.parameters(), 0.1)) as monitor:
        for label in rows:
            with pytest.raises(InputError) as raised:
                monitor.end_epoch(val_loss=NONSENSE[label]())
            assert "val_loss" in str(raised.value)
            assert len(str(raised.value)) < 600
        assert monitor.history.epoch == 0
    record_property("attacks", len(rows))


def test_loop_over_a_loader_that_yields_nothing(record_property: Callable[[str, Any], None]) -> None:
    class Nothing:
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loop = autotrainer.Loop(model, optimizer, nn.MSELoss(), Nothing(), epochs=2, progress=False)
    for _ in loop:
        with pytest.raises(DataError, match="train_loader: the Nothing yields no batch"):
            list(loop.train_loader)
        break
    record_property("attacks", 1)


def test_refused_loop_leaves_the_optimizer_without_a_scheduler(kits: Any) -> None:
    problem = kits["pytorch"].refuses(
        "Loop", "strategy", strategy="best", scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1)
    )
    assert not problem

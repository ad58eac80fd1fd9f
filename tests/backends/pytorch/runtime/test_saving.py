"""Saved models: weights load with the safe default of `torch.load`, whatever the model is."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import autotrainer
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.backends.pytorch.runtime.saving import save_model
from autotrainer.errors import InputError
from autotrainer.reporting.result import Result
from autotrainer.testing.edits import every_edit
from autotrainer.testing.recorded import RecordedRun


def make_result(model: nn.Module) -> Result:
    return Result("healthy", "done", model, None, {"loss": [1.0]}, 0.5, 0.5, None, None, [], None)


def assert_equal(one: Any, two: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        one, two = (value.to_dense() if value.layout != torch.strided else value for value in (one, two))
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            assert_equal(one[name], two[name])
    else:
        assert one == two


# -- models of every kind ---------------------------------------------------------------------------------------------


class State(nn.Linear):
    """A module with extra state."""

    def __init__(self, extra: Any) -> None:
        super().__init__(3, 3)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class Owner:
    """What no loader of weights knows."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owner)

    __hash__ = None  # type: ignore[assignment]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def with_attribute(**attributes: Any) -> nn.Module:
    model = nn.Linear(3, 3)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def local() -> nn.Module:
    class Local(nn.Linear):
        pass

    return Local(3, 3)


def buffers() -> nn.Module:
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("index", torch.arange(4))
    model.register_buffer("hidden", torch.zeros(2), persistent=False)
    model.register_buffer("nothing", None)
    return model


def parameter(value: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.value = nn.Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())
    return model


def nested(depth: int) -> nn.Module:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def named(*names: str) -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(1, 1) for name in names})


def hooked() -> nn.Module:
    model = nn.Linear(3, 3)
    model.register_forward_hook(lambda module, arguments, output: output)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(3, 3),
    "empty": nn.Sequential,
    "normalized": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2, affine=True)),
    "recurrent": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "tied": tied,
    "buffers": buffers,
    "half": lambda: nn.Linear(3, 3).half(),
    "bfloat16": lambda: nn.Linear(3, 3).bfloat16(),
    "double": lambda: nn.Linear(3, 3).double(),
    "complex": lambda: nn.Linear(3, 3, dtype=torch.complex64),
    "float8": lambda: parameter(torch.zeros(4).to(torch.float8_e4m3fn)),
    "integers": lambda: parameter(torch.arange(5, dtype=torch.int8)),
    "sparse": lambda: parameter(torch.eye(3).to_sparse()),
    "scalar": lambda: parameter(torch.tensor(3.0)),
    "no elements": lambda: parameter(torch.zeros(0, 4)),
    "a view of a larger tensor": lambda: parameter(torch.arange(1000.0)[10:14]),
    "transposed": lambda: parameter(torch.arange(6.0).view(2, 3).t()),
    "not finite": lambda: parameter(torch.tensor([float("inf"), -float("inf")])),
    "frozen": lambda: nn.Linear(3, 3).requires_grad_(False),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "lambda": lambda: with_attribute(function=lambda: None),
    "lock": lambda: with_attribute(lock=threading.Lock()),
    "open file": lambda: with_attribute(file=sys.__stdout__),
    "generator": lambda: with_attribute(rows=(row for row in ())),
    "module": lambda: with_attribute(module=os),
    "local class": local,
    "hook": hooked,
    "deep": lambda: nested(60),
    "too deep to pickle": lambda: nested(400),
    "odd names": lambda: named("a b", "é", "\u202e", "a\nb", "\x1b[31m", "%s", "'", "a/b"),
    "copied in parallel": lambda: nn.DataParallel(nn.Linear(3, 3)),
    "extra tensor": lambda: State(torch.arange(3)),
    "extra values": lambda: State({"a": [1, 2.5, None, "text", True]}),
    "extra nothing": lambda: State(None),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", MODELS)
def test_weights_load_with_the_safe_default(kind: str, tmp_path: Path, record_property: Any) -> None:
    model = MODELS[kind]()
    assert save_model(model, tmp_path) == tmp_path / "model.pt"
    weights = torch.load(tmp_path / "weights.pt")
    assert_equal(dict(weights), dict(model.state_dict()))
    assert MODELS[kind]().load_state_dict(weights, strict=True)
    whole = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_equal(dict(whole["state_dict"]), dict(weights))
    if "model" in whole:
        assert_equal(dict(whole["model"].state_dict()), dict(weights))
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "weights.pt"]
    record_property("attacks", 1)


def test_extra_state_of_another_kind_needs_consent(tmp_path: Path, record_property: Any) -> None:
    model = State(Owner())
    save_model(model, tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "weights.pt")
    assert_equal(dict(torch.load(tmp_path / "weights.pt", weights_only=False)), dict(model.state_dict()))
    record_property("attacks", 1)


def test_weights_that_cannot_be_saved_are_rejected(tmp_path: Path, record_property: Any) -> None:
    make_result(nn.Linear(3, 3)).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    extras = [lambda: None, threading.Lock(), (row for row in ()), os, sys.__stdout__]
    for extra in extras:
        with pytest.raises(InputError, match="the state_dict of State can't be saved"):
            make_result(State(extra)).save(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    record_property("attacks", len(extras))


class Raises(nn.Linear):
    """A model whose own code fails while it is saved."""

    def __init__(self, error: BaseException, where: str) -> None:
        super().__init__(3, 3)
        self.__dict__["failure"] = (error, where)

    def __getstate__(self) -> Any:
        error, where = self.failure
        if where == "pickle":
            raise error
        return {**self.__dict__, "failure": None}

    def get_extra_state(self) -> Any:
        error, where = self.failure
        if where == "weights":
            raise error
        return None

    def set_extra_state(self, state: Any) -> None:
        pass


USER_ERRORS = [
    ZeroDivisionError("mine"), KeyError("mine"), FileNotFoundError(2, "mine", "/vocabulary.txt"), KeyboardInterrupt(),
    SystemExit(3), MemoryError("mine"),
]  # fmt: skip


@pytest.mark.parametrize("where", ["pickle", "weights"])
@pytest.mark.parametrize("error", USER_ERRORS, ids=repr)
def test_errors_of_the_user_pass(error: BaseException, where: str, tmp_path: Path, record_property: Any) -> None:
    make_result(nn.Linear(3, 3)).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        raise OSError("an error that the user handles here")
    except OSError:
        with pytest.raises(type(error)) as caught:
            make_result(Raises(error, where)).save(tmp_path)
    assert caught.value is error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    record_property("attacks", 1)


def test_handled_error_is_not_taken_for_one_of_the_file(tmp_path: Path, record_property: Any) -> None:
    """`torch.save` hides the errors of a file behind a RuntimeError, but not each RuntimeError hides one."""
    for handled in (OSError("of the user"), KeyboardInterrupt(), RuntimeError()):
        try:
            raise handled
        except BaseException:  # noqa: BLE001 - as users do
            save_model(parametrizations.weight_norm(nn.Linear(3, 3)), tmp_path)
        assert set(torch.load(tmp_path / "model.pt")) == {"state_dict"}
    record_property("attacks", 3)


def test_link_in_the_folder_is_replaced(tmp_path: Path, record_property: Any) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    folder.mkdir()
    victim.write_text("precious")
    names = ("weights.pt", "model.pt", "attempts.json", "report.json", "report.html", "plan.json")
    for name in names:
        (folder / name).symlink_to(victim)
    make_result(nn.Linear(3, 3)).save(folder)
    assert victim.read_text() == "precious"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert not (folder / "plan.json").exists()
    record_property("attacks", len(names))


def test_threads_save_to_one_folder(tmp_path: Path, record_property: Any) -> None:
    results = [make_result(nn.Linear(8, 8 + number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: results[number % 8].save(tmp_path), range(40)))
    weights = torch.load(tmp_path / "weights.pt")
    assert any(weights["weight"].shape == result.model.weight.shape for result in results)
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert sorted(os.listdir(tmp_path)) == ["attempts.json", "model.pt", "report.html", "report.json", "weights.pt"]
    record_property("attacks", 40)


@pytest.mark.slow
def test_weights_of_every_repaired_model_load(managed: Any, tmp_path: Path, record_property: Any) -> None:
    trainer = managed.trainer(managed.mlp())
    hidden = [layer.name for layer in trainer.context.layers if layer.parameters and layer.hidden]
    edits = [edit for edit in every_edit(hidden) if trainer.supports(edit)]
    for edit in edits:
        run = RecordedRun()
        model = trainer.train(TrainingSpec(1, 0, (edit,)), run).model
        save_model(model, tmp_path)
        weights = torch.load(tmp_path / "weights.pt")
        copy.deepcopy(model).load_state_dict(weights)
        whole = torch.load(tmp_path / "model.pt", weights_only=False)["model"]
        x = torch.from_numpy(np.asarray(managed.x[:4], dtype=np.float32))
        with torch.no_grad():
            torch.testing.assert_close(whole(x), model(x))
    assert len(edits) >= 10
    record_property("attacks", len(edits))


@pytest.mark.slow
def test_saved_weights_load_without_autotrainer(tmp_path: Path, run_python: Any) -> None:
    code = """
import sys, torch
from torch import nn
assert not any(name.startswith("autotrainer") for name in sys.modules)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
model.load_state_dict(torch.load(sys.argv[1] + "/weights.pt"))
print(model(torch.ones(1, 4)).tolist())
"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.randn(80, 4)
    result = autotrainer.fit(
        model, (x, (x[:, 0] > 0).long()), loss=nn.CrossEntropyLoss(), optimizer=optimizer, epochs=2, repair=False,
        progress=False,
    )  # fmt: skip
    result.save(tmp_path)
    done = run_python(code, str(tmp_path))
    with torch.no_grad():
        assert done.stdout.strip() == str(result.model(torch.ones(1, 4)).tolist()), done.stderr

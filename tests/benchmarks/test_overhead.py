"""The overhead benchmark: settings leave the training unchanged; memory growth and tables are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.errors import ConfigError
from benchmarks.overhead import memory as overhead_memory
from benchmarks.overhead import settings as overhead_settings
from benchmarks.overhead import suite as overhead
from benchmarks.overhead.memory import PARTS
from benchmarks.overhead.run import build_training, run
from benchmarks.overhead.settings import ALTERNATIVES, CALLBACKS, CONTROL, WATCH, missing_module, settings_of
from benchmarks.overhead.suite import MODELS, summarize, tasks


def task(framework: str = "pytorch", setting: str = "default", model: str = "mlp", **more: Any) -> dict[str, Any]:
    return {"framework": framework, "model": model, "setting": setting, **more}


@pytest.mark.parametrize("setting", [*WATCH, "norm_loop", "detect_anomaly"])
def test_settings_do_not_change_the_training(setting: str, tmp_path: Path) -> None:
    plain, watched = (build_training(task(), name, str(tmp_path)) for name in (CONTROL, setting))
    watched.attach()
    for one in (plain, watched):
        seconds, processor = one.block(12)
        assert len(seconds) == 12
        assert processor >= 0
    watched.close()
    for a, b in zip(plain.network.parameters(), watched.network.parameters(), strict=True):
        assert a.equal(b)
    assert bool(list(tmp_path.iterdir())) == (setting == "log_dir")


@pytest.mark.parametrize("model", MODELS)
def test_all_models_train(model: str, tmp_path: Path) -> None:
    trained = build_training(task(model=model), CONTROL, str(tmp_path))
    before = [p.detach().clone() for p in trained.network.parameters()]
    trained.block(1)
    assert all(not a.equal(b) for a, b in zip(before, trained.network.parameters(), strict=True))
    assert trained.parameters == sum(4 * p.numel() for p in before)


def test_keras_norm_loop_and_check_numerics(tmp_path: Path) -> None:
    import tensorflow as tf

    plain, norms, checked = (
        build_training(task("keras3"), name, str(tmp_path)) for name in (CONTROL, "norm_loop", "check_numerics")
    )
    for one in (plain, norms, checked):
        one.attach()
        assert len(one.block(3)[0]) == 2  # from the end of one batch to the end of the next
    assert plain.parameters == norms.parameters
    for a, b in zip(plain.network.get_weights(), norms.network.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for one in (plain, checked):
        one.network.set_weights([np.full_like(w, np.nan) for w in one.network.get_weights()])
    plain.block(1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        checked.block(1)


def test_missing_modules_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead_settings, "find_spec", lambda name: None)
    assert missing_module("pytorch", "default") is missing_module("pytorch", "norm_loop") is None
    monkeypatch.setattr(overhead, "run_all", lambda module, tasks, out, **_: [])
    text = overhead.overhead(["pytorch"], models=["mlp"], settings=["wandb"], out=Path("never written"))
    assert "| pytorch | wandb | not installed |" in text
    row = run(task(setting="wandb", pairs=1, seconds=0.01))
    assert row == overhead_memory.run(task(setting="wandb", steps=4)) == {"missing": "wandb"}


@pytest.mark.slow  # collecting garbage under tracemalloc
def test_growing_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        network = None
        parameters = 100

        def __init__(self, leak: int) -> None:
            self.leak, self.kept = leak, list[bytes]()

        def attach(self) -> None:
            self.kept.append(bytes(3_000_000 if self.leak else 0))

        def block(self, steps: int) -> tuple[list[float], float]:
            self.kept += [bytes(self.leak) for _ in range(steps)]
            return [1.0] * steps, 0.0

        def close(self) -> None:
            self.kept.clear()

    trainings = {CONTROL: Fake(0), "default": Fake(90_000)}
    monkeypatch.setattr(overhead_memory, "build_training", lambda task, setting, folder: trainings[setting])
    rows = [{"task": t, **overhead_memory.run(t)} for t in (task(setting=name, steps=120) for name in trainings)]
    assert len(rows[1]["traced"]) == PARTS
    used = [row["traced"][-1] for row in rows]
    assert used[1] - used[0] == pytest.approx(3e6 + 90_000 * 120, rel=0.05)
    text = summarize([], rows)
    assert "| pytorch | plain |" not in text
    assert "| pytorch | default | 13.8 / " in text
    assert "| pytorch | default | 5.40 / " in text
    assert "* pytorch, default, mlp: grows, by 5.40 MB" in text


def timed_row(setting: str, ratio: float, **more: Any) -> dict[str, Any]:
    plain = np.full(16, 0.002)
    numbers = {f"plain_{measure}": list(plain) for measure in ("median", "processor")}
    numbers |= {f"watched_{measure}": list(plain * ratio) for measure in ("median", "processor")}
    return {"task": task(setting=setting, **more), **numbers, "start": 0.1, "entry": 0.0}


def test_summary_shows_the_grid_and_missed_goals() -> None:
    rows = [timed_row("default", 1.004), timed_row("default", 1.03, model="cnn"), timed_row("norm_loop", 1.5)]
    rows += [timed_row("overhead=0.05", 1.03), {"task": task(setting="norm_loop", model="cnn"), "error": "no end"}]
    memory = [
        {"task": task(setting=name), "parameters": 1e6, "traced": [size] * 4, "resident": None}
        for name, size in ((CONTROL, 1e7), ("default", 4e7))
    ]
    text = summarize(rows, memory)
    assert "| framework | setting | mlp | cnn |" in text
    assert "| pytorch | default | 1.0040 (1.0040 – 1.0040) | 1.0300 (1.0300 – 1.0300) |" in text
    assert "| pytorch | norm_loop | 1.5000 (1.5000 – 1.5000) | failed |" in text
    missed = text[text.index("Goals missed") : text.index("Failed")]
    assert missed.count("* ") == 2
    assert "* pytorch, default, cnn: step time 1.0300" in missed
    assert "* pytorch, default, mlp: 30.0 MB of 20.0 allowed" in missed
    assert "* pytorch, norm_loop, cnn: no end" in text
    assert "| pytorch | default | 30.0 / – |" in text
    assert "its control failed" in summarize([], memory[1:])


def test_grid_can_be_restricted() -> None:
    timed, measured = tasks(("pytorch", "keras3"))
    assert len(measured) == len(MODELS) * (2 * (1 + len(WATCH)) + sum(map(len, ALTERNATIVES.values())))
    assert len(timed) - len(measured) == len(MODELS) * sum(map(len, CALLBACKS.values()))
    assert {t["setting"] for t in timed if t["framework"] == "pytorch"} == set(settings_of("pytorch"))
    timed, measured = tasks(("pytorch",), models=["lstm"], settings=["default", "wandb"])
    assert [(t["model"], t["setting"]) for t in timed] == [("lstm", "default"), ("lstm", "wandb")]
    assert [t["setting"] for t in measured] == [CONTROL, "default", "wandb"]
    quick, _ = tasks(("pytorch", "keras3"), quick=True)
    assert 0 < len(quick) <= 12
    for wrong in ({"models": ["rnn"]}, {"settings": ["torchdiag"]}):
        with pytest.raises(ConfigError, match=r"unknown (model 'rnn'|setting 'torchdiag'): choose from"):
            tasks(("keras3",), **wrong)

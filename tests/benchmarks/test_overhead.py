"""The overhead benchmark: every setting trains the same, memory that grows is seen, rows become tables."""

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
from benchmarks.overhead.run import run, training
from benchmarks.overhead.settings import CONTROL, RIVALS, WATCH, missing, settings_of
from benchmarks.overhead.suite import MODELS, summarize, tasks


def task(framework: str = "pytorch", setting: str = "default", model: str = "mlp", **more: Any) -> dict[str, Any]:
    return {"framework": framework, "model": model, "setting": setting, **more}


@pytest.mark.parametrize("setting", [*WATCH, "norm_loop", "detect_anomaly"])
def test_every_setting_trains_as_without_it(setting: str, tmp_path: Path) -> None:
    plain, given = (training(task(), name, str(tmp_path)) for name in (CONTROL, setting))
    given.attach()
    for one in (plain, given):
        seconds, processor = one.block(12)
        assert len(seconds) == 12
        assert processor >= 0
    given.close()
    for a, b in zip(plain.network.parameters(), given.network.parameters(), strict=True):
        assert a.equal(b)
    assert bool(list(tmp_path.iterdir())) == (setting == "log_dir")


@pytest.mark.parametrize("model", MODELS)
def test_all_models_train(model: str, tmp_path: Path) -> None:
    trained = training(task(model=model), CONTROL, str(tmp_path))
    before = [p.detach().clone() for p in trained.network.parameters()]
    trained.block(1)
    assert all(not a.equal(b) for a, b in zip(before, trained.network.parameters(), strict=True))
    assert trained.parameters == sum(4 * p.numel() for p in before)


def test_keras_settings_do_what_they_say(tmp_path: Path) -> None:
    import tensorflow as tf

    plain, norms, checked = (
        training(task("keras3"), name, str(tmp_path)) for name in (CONTROL, "norm_loop", "check_numerics")
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


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead_settings, "find_spec", lambda name: None)
    assert missing("pytorch", "default") is missing("pytorch", "norm_loop") is None
    monkeypatch.setattr(overhead, "run_all", lambda module, tasks, out, **_: [])
    text = overhead.overhead(["pytorch"], models=["mlp"], settings=["wandb"], out=Path("never written"))
    assert "| pytorch | wandb | not installed |" in text
    row = run(task(setting="wandb", pairs=1, seconds=0.01))
    assert row == overhead_memory.run(task(setting="wandb", steps=4)) == {"missing": "wandb"}


@pytest.mark.slow  # collecting garbage under tracemalloc
def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
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

    made = {CONTROL: Fake(0), "default": Fake(90_000)}
    monkeypatch.setattr(overhead_memory, "training", lambda task, setting, folder: made[setting])
    rows = [{"task": t, **overhead_memory.run(t)} for t in (task(setting=name, steps=120) for name in made)]
    assert len(rows[1]["traced"]) == PARTS
    told = [row["traced"][-1] for row in rows]
    assert told[1] - told[0] == pytest.approx(3e6 + 90_000 * 120, rel=0.05)
    text = summarize([], rows)
    assert "| pytorch | plain |" not in text
    assert "| pytorch | default | 13.8 / " in text
    assert "| pytorch | default | 5.40 / " in text
    assert "* pytorch, default, mlp: grows, by 5.40 MB" in text


def made(setting: str, ratio: float, **more: Any) -> dict[str, Any]:
    plain = np.full(16, 0.002)
    numbers = {f"plain_{what}": list(plain) for what in ("median", "processor")}
    numbers |= {f"watched_{what}": list(plain * ratio) for what in ("median", "processor")}
    return {"task": task(setting=setting, **more), **numbers, "start": 0.1, "entry": 0.0}


def test_rows_become_a_grid_and_missed_goals() -> None:
    rows = [made("default", 1.004), made("default", 1.03, model="cnn"), made("norm_loop", 1.5)]
    rows += [made("overhead=0.05", 1.03), {"task": task(setting="norm_loop", model="cnn"), "error": "no end"}]
    kept = [
        {"task": task(setting=name), "parameters": 1e6, "traced": [size] * 4, "resident": None}
        for name, size in ((CONTROL, 1e7), ("default", 4e7))
    ]
    text = summarize(rows, kept)
    assert "| framework | setting | mlp | cnn |" in text
    assert "| pytorch | default | 1.0040 (1.0040 – 1.0040) | 1.0300 (1.0300 – 1.0300) |" in text
    assert "| pytorch | norm_loop | 1.5000 (1.5000 – 1.5000) | failed |" in text
    missed = text[text.index("Goals missed") : text.index("Failed")]
    assert missed.count("* ") == 2
    assert "* pytorch, default, cnn: step time 1.0300" in missed
    assert "* pytorch, default, mlp: 30.0 MB of 20.0 allowed" in missed
    assert "* pytorch, norm_loop, cnn: no end" in text
    assert "| pytorch | default | 30.0 / – |" in text
    assert "its control failed" in summarize([], kept[1:])


def test_the_grid_can_be_narrowed() -> None:
    timed, told = tasks(("pytorch", "keras3"))
    assert len(timed) == len(told) == len(MODELS) * (2 * (1 + len(WATCH)) + sum(map(len, RIVALS.values())))
    assert {t["setting"] for t in timed if t["framework"] == "pytorch"} == set(settings_of("pytorch"))
    timed, told = tasks(("pytorch",), models=["lstm"], settings=["default", "wandb"])
    assert [(t["model"], t["setting"]) for t in timed] == [("lstm", "default"), ("lstm", "wandb")]
    assert [t["setting"] for t in told] == [CONTROL, "default", "wandb"]
    quick, _ = tasks(("pytorch", "keras3"), quick=True)
    assert 0 < len(quick) <= 12
    for wrong in ({"models": ["rnn"]}, {"settings": ["torchdiag"]}):
        with pytest.raises(ConfigError, match=r"unknown (model 'rnn'|setting 'torchdiag'): choose from"):
            tasks(("keras3",), **wrong)

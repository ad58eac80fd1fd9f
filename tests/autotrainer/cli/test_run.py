"""``autotrainer run``: a script runs as with python, and every training in it is reported on stderr."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from autotrainer.cli import main

Capture = pytest.CaptureFixture[str]
Write = Callable[..., str]

TRAINING = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(128, 8)
y = (x[:, 0] + torch.randn(128) > x[:, 1]).long()
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2){last})
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for step in range(40):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(model[0].weight.sum().item(), torch.rand(1).item())
"""
HEALTHY, FAULTY = TRAINING.format(last=""), TRAINING.format(last=", nn.Softmax(1)")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "script.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_script.py"], "there is no script 'no_such_script.py'"),
        (["-m", "no_such_module"], "there is no module 'no_such_module'"),
        ([], "required: SCRIPT"),
        (["--select", "vanishing_gradeint", "x.py"], "did you mean 'vanishing_gradient'?"),
        (["--threshold", "beta_1", "x.py"], "--threshold takes NAME=VALUE"),
        (["--epochs", "0", "x.py"], "--epochs must be at least 1"),
        (["-o", "report.pdf", "x.py"], "can't write a report as 'report.pdf'"),
    ],
)
def test_bad_input_is_one_line_with_status_2(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(["run", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("autotrainer: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_script_runs_in_the_environment_of_python(write: Write, tmp_path: Path, capsys: Capture) -> None:
    write("VALUE = 7", "beside.py")
    script = write(
        "import pickle, sys\nfrom beside import VALUE\n"
        "class Custom: pass\nassert isinstance(pickle.loads(pickle.dumps(Custom())), Custom)\n"
        "print(__name__, __file__, sys.argv, sys.path[0], VALUE)\n"
    )
    before = list(sys.argv), list(sys.path)
    assert main(["run", script, "--epochs", "x", "-o", "--", "y"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"__main__ {script} {[script, '--epochs', 'x', '-o', '--', 'y']} {tmp_path} 7\n"
    assert captured.err == "autotrainer: no training run was found in this script\n"
    assert (list(sys.argv), list(sys.path)) == before


def test_module_runs_as_with_python_m(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "package_for_run").mkdir()
    write("", "package_for_run/__init__.py")
    script = write("import sys\nprint(__name__, __package__, sys.argv)", "package_for_run/train.py")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "package_for_run.train", "-x"]) == 0
    assert capsys.readouterr().out == f"__main__ package_for_run {[script, '-x']}\n"


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('wrong data')", 1, "wrong data\n"),
        ("def f():\n    raise ValueError('broken')\nf()", 1, "ValueError: broken\n"),
        ("def f(:", 1, "SyntaxError"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_exit_status_of_the_script(text: str, status: int, message: str, write: Write, capsys: Capture) -> None:
    script = write(text)
    assert main(["run", script]) == status
    printed = capsys.readouterr().err
    assert message in printed
    assert ("runpy" in printed, "cli/run.py" in printed) == (
        False,
        False,
    )  # the traceback has only frames of the script
    if message == "ValueError: broken\n":
        assert printed.startswith(f'Traceback (most recent call last):\n  File "{script}", line 3, in <module>\n')


@pytest.mark.parametrize(
    ("text", "arguments", "status"),
    [
        (HEALTHY, [], 0),
        (FAULTY, ["--steps", "40"], 1),
        (FAULTY, ["--ignore", "improper_output_activation"], 0),
        (FAULTY + "raise SystemExit(5)", ["--steps", "40"], 5),
    ],
)
def test_exit_status_and_report(text: str, arguments: list[str], status: int, write: Write, capsys: Capture) -> None:
    assert main(["run", *arguments, write(text)]) == status
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1  # printed by the script
    assert "in 40 steps (40 epochs) of training a pytorch model" in captured.err
    assert ("AT401 improper_output_activation" in captured.err) == (
        text.startswith(FAULTY) and "--ignore" not in arguments
    )


def test_probes_are_run_if_wanted_and_suggested_if_the_cause_is_unknown(write: Write, capsys: Capture) -> None:
    script = write(TRAINING.format(last="").replace("model(x), y)", "model(x * 0), y)"))
    printed = []
    for arguments in ([], ["--probe"]):
        main(["run", *arguments, "--steps", "40", script])
        printed.append(capsys.readouterr().err)
    assert ["--probe also looks" in text for text in printed] == [True, False]
    assert ["probes at the start" in text for text in printed] == [False, True]


def test_reports_and_logs_are_written(write: Write, tmp_path: Path, capsys: Capture) -> None:
    report, logs = tmp_path / "report.json", tmp_path / "logs"
    assert main(["run", "-o", str(report), "--log-dir", str(logs), write(FAULTY + HEALTHY)]) == 1
    assert "training 2 of 2: Sequential" in capsys.readouterr().err
    first, second = (json.loads(path.read_text()) for path in (report, tmp_path / "report-2.json"))
    assert first["findings"][0]["problem"] == "improper_output_activation"
    assert "improper_output_activation" not in [finding["problem"] for finding in second["findings"]]
    assert first["findings"][0]["place"].endswith("script.py:7")
    first_log, _ = sorted(logs.iterdir())
    assert main(["replay", str(first_log)]) == 1


def test_unwritable_report_is_reported_last(write: Write, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["run", "-o", str(tmp_path / "file" / "report.txt")]
    assert main([*arguments, write(HEALTHY)]) == 2
    assert "autotrainer: can't write" in capsys.readouterr().err.splitlines()[-1]
    assert main([*arguments, write(HEALTHY + "raise SystemExit(5)")]) == 5


def test_off_switch_only_runs_the_script(write: Write, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    assert main(["run", write(FAULTY)]) == 0
    assert capsys.readouterr().err == "autotrainer: no training run was found in this script\n"


_PLAIN = "import runpy, sys\nrunpy.run_path(sys.argv[-1], run_name='__main__')\n"
_MAIN = "import sys\nfrom autotrainer.cli import main\nstatus = main(sys.argv[1:])\n"


def test_imports_no_framework_of_its_own(write: Write, run_python: Callable[..., CompletedProcess[str]]) -> None:
    after = "print(sorted({'torch', 'keras', 'tensorflow'} & sys.modules.keys()))"
    ran = run_python(_MAIN + after, "run", write("print('hello')"))
    assert ran.stdout == "hello\n[]\n"


def test_pytorch_script_runs_as_with_python(
    write: Write, run_python: Callable[..., CompletedProcess[str]], run_forked: Callable[..., Any]
) -> None:
    script = write(FAULTY)
    (plain,) = run_forked((_PLAIN, [script], {}))
    ran = run_python(_MAIN + "sys.exit(status)", "run", script)
    assert ran.returncode == 1
    assert ran.stdout == plain.stdout
    assert "improper_output_activation" in ran.stderr


def test_keras_script_runs_as_with_python(write: Write, run_python: Callable[..., CompletedProcess[str]]) -> None:
    script = write("""
import importlib.util
assert importlib.util.find_spec("keras") is not None
import keras, numpy as np
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
y = np.eye(3, dtype="float32")[(x[:, :3]).argmax(1)]
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "relu")])
model.compile("adam", "categorical_crossentropy")
model.fit(x, y, epochs=5, verbose=0)
print(model.get_weights()[0].tobytes().hex()[:80])
""")
    ran = run_python(_MAIN + _PLAIN + "sys.exit(status)", "run", script)
    assert ran.returncode == 1
    watched, plain = ran.stdout.splitlines()
    assert watched == plain
    assert "in 20 steps (5 epochs) of training a keras3 model with 2 layers" in " ".join(ran.stderr.split())
    assert "ERROR  AT401 improper_output_activation" in ran.stderr


ENDLESS = TRAINING.replace("range(40)", "range(10**9)").format(last="") + "raise SystemExit('not reached')\n"
ENDLESS = ENDLESS.replace(
    "    optimizer.step()\n", "    optimizer.step()\n    if step == 20:\n        print('on', flush=True)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "guard"),
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGTERM, -signal.SIGTERM, "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"),
        (signal.SIGINT, 130, ""),
    ],
)
def test_interrupted_script_is_reported_and_ends_by_its_signal(
    number: signal.Signals, status: int, guard: str, write: Write, tmp_path: Path
) -> None:
    script, logs = write(guard + ENDLESS), tmp_path / "logs"
    command = [sys.executable, "-c", _MAIN + "sys.exit(status)", "run", "--log-dir", str(logs), script]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == status
    assert "of training a pytorch model" in printed
    (log,) = logs.iterdir()
    ends = [record for record in map(json.loads, log.read_text().splitlines()) if record.get("type") == "end"]
    assert [record["finished"] for record in ends] == [False]


@pytest.mark.slow
def test_script_that_handles_sigterm_is_left_alone(write: Write, run_forked: Callable[..., Any]) -> None:
    script = write(
        "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + HEALTHY
        + "os.kill(os.getpid(), signal.SIGTERM)\n"
    )  # fmt: skip
    (ran,) = run_forked((_MAIN + "sys.exit(status)", ["run", script], {}))
    assert ran.returncode == 7
    assert "in 40 steps (40 epochs) of training" in ran.stderr


@pytest.mark.slow
def test_loop_around_a_gradient_tape(write: Write, run_python: Callable[..., CompletedProcess[str]]) -> None:
    script = write("""
import keras, numpy as np, tensorflow as tf
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)
for _ in range(3):
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(model(np.ones((4, 2), "float32")) ** 2)
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
layer = keras.layers.Dense(1)
for _ in range(2):
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(layer(np.ones((4, 2), "float32")) ** 2)
    keras.optimizers.SGD(0.1).apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
""")
    ran = run_python(_MAIN + "sys.exit(status)", "run", script)
    assert ran.returncode == 0
    assert "in 3 steps of training" in ran.stderr
    assert ran.stderr.count("is not watched: no keras.Model has the weights") == 1

"""Reading, printing and applying a plan executes, imports and writes nothing that the plan names."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CANARY = """
import json, os, random, sys, warnings
warnings.simplefilter("ignore")
framework, folder, tried, applied = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, folder)
import autotrainer
from autotrainer import edits, load_plan
from autotrainer.testing import every_edit
from autotrainer.reporting.plan import RepairPlan

layers = ["0", "1", "2"] if framework == "pytorch" else ["a", "b"]
if applied and framework == "pytorch":
    import torch

    def build():
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
elif applied:
    import keras

    def build():
        parts = [keras.layers.Dense(2, "tanh", name="a"), keras.layers.Dense(1, name="b")]
        model = keras.Sequential([keras.Input((2,)), *parts])
        model.compile("sgd", "mse")
        return model

NAMES = [
    "canary", "canary.run", "canary:run", "canary/run", "canary.py", "../canary.py", "os.system", "builtins.eval",
    "__import__('canary')", "exec('import canary')", "{canary.__globals__}", "%(canary)s", "!!python/object:canary.run",
    "__class__.__init__.__globals__", "cos\\nsystem\\n(S'touch canary.txt'\\ntR.", "$(touch canary.txt)",
    "`touch canary.txt`", "; touch canary.txt", "| touch canary.txt", folder + "/canary.py", "file://" + folder,
    "a\\nimport canary", "\\x00canary", "canary\\u202e", "torch.hub.load", "keras.saving.load_model", "__main__",
]
plan_path = os.path.join(folder, "plan.json")
contents = []
for name in NAMES:
    for edit in every_edit(layers):
        values = json.loads(RepairPlan((name,), (edit,), (name,), framework, (name,), 0, {name: name}).to_json())
        contents.append(values)
        for field in values["edits"][0]:
            contents.append({**values, "edits": [{**values["edits"][0], field: name}]})
            contents.append({**values, "edits": [{**values["edits"][0], field: [name]}]})
        contents.append({**values, "edits": [{**values["edits"][0], name: name}]})
    for key in values:
        contents.append({**values, key: name})
        contents.append({**values, key: {name: name, "__class__": name, "py/object": name, "$type": name}})
    contents.append({**values, name: name})
accepted = 0
seen = []
armed = False
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
BAD = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "pty.", "socket.", "ctypes.dlopen",
    "pickle.find_class", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod",
    "os.truncate", "shutil.", "tempfile.", "urllib.", "webbrowser.", "os.putenv",
)


def hook(event, args):
    if not armed:
        return
    if event.startswith(BAD) or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
        seen.append((event, repr(args)[:200]))
    elif event in ("import", "compile", "exec"):
        code = args[0]
        parts = [code.co_consts, code.co_names, code.co_filename] if event == "exec" else args
        if "canary" in repr(parts):
            seen.append((event, repr(parts)[:200]))


def run(values, model):
    global armed, accepted
    with open(plan_path, "w") as file:
        json.dump(values, file)
    armed = True
    try:
        plan = load_plan(plan_path)
        str(plan), repr(plan), plan.to_json(), plan.changes
        accepted += 1
        if model is not None:
            plan.apply(model)
    except autotrainer.errors.InputError:
        pass
    finally:
        armed = False


sys.addaudithook(hook)
rng = random.Random(0)
rng.shuffle(contents)
del contents[tried:]
for number, values in enumerate(contents):
    run(values, build() if number < applied else None)
assert "canary" not in sys.modules
assert sorted(os.listdir(folder)) == ["canary.py", "plan.json"], os.listdir(folder)
print(len(contents), accepted, seen[:5])

armed = True  # the hook itself works
import canary
os.system("true")
open(os.path.join(folder, "written.txt"), "w").close()
armed = False
events = {event for event, _ in seen}
print(sorted(events))
"""


@pytest.mark.parametrize(
    ("framework", "tried", "applied"),
    [
        ("pytorch", 500, 0),
        ("keras3", 500, 0),
        pytest.param("pytorch", 4_000, 200, marks=pytest.mark.slow),
        pytest.param("keras3", 4_000, 25, marks=pytest.mark.slow),
    ],
)
def test_nothing_that_a_plan_names_is_imported_run_or_written(
    framework: str,
    tried: int,
    applied: int,
    tmp_path: Path,
    run_python: Any,
    record_property: Callable[[str, int], None],
) -> None:
    (tmp_path / "canary.py").write_text("def run(): pass\n")
    arguments = (framework, str(tmp_path), str(tried), str(applied))
    done = run_python(CANARY, *arguments, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    result, control = done.stdout.splitlines()[-2:]
    number, accepted, events = result.split(" ", 2)
    record_property("attacks", int(number))
    assert int(number) >= min(tried, 4000)
    assert 0 < int(accepted) < int(number)
    assert events == "[]", events
    assert {"import", "open", "os.system"} <= set(ast.literal_eval(control)), "the hook sees what is forbidden"

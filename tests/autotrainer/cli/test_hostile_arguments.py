"""Modules, scripts and options that do what they should not: one line and status 2, or what python would do."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autotrainer.cli import main

Capture = pytest.CaptureFixture[str]

_IMPORTS = {
    "exits": "import sys; sys.exit(7)",
    "exits with 0": "import sys; sys.exit()",
    "exits with a text": "import sys; sys.exit('bye\\n\\x1b[31m')",
    "raises": "raise ValueError('two\\nlines \\x1b[31m')",
    "raises a base exception": "class Base(BaseException): pass\nraise Base('x')",
    "raises without a message": "class Bad(Exception):\n    def __str__(self): raise self\nraise Bad",
    "generator exit": "raise GeneratorExit",
    "has a syntax error": "def f(:",
    "has NUL": "a = 1\0",
    "recurses": "def f(): f()\nf()",
    "imports what is missing": "import no_such_module_of_anyone",
    "imports itself wrongly": "from . import other",
    "exits in __getattr__": "def __getattr__(name): raise SystemExit(9)",
    "raises in __getattr__": "def __getattr__(name): raise ZeroDivisionError(name)",
    "replaces itself": "import sys; sys.modules[__name__] = 5",
    "removes itself": "import sys; del sys.modules[__name__]\nraise ImportError('x')",
    "has no function": "x = 1",
    "has a number": "make = 5",
    "asserts": "assert False",
}
_CALLS = {
    "exits": "import sys; sys.exit(0)",
    "raises": "raise ValueError('x')",
    "raises a base exception": "raise type('Base', (BaseException,), {})('x')",
    "returns nothing": "pass",
    "returns a number": "return 5",
    "returns an empty tuple": "return ()",
    "returns an empty dict": "return {}",
    "returns one value": "return (1,)",
    "returns too much": "return tuple(range(20))",
    "returns a generator": "yield 1",
    "returns other names": "return {'a': 1}",
    "returns number keys": "return {1: 2}",
    "returns a model of no framework": "return {'model': 1, 'train_data': 2}",
    "returns a mapping that fails": (
        "from collections.abc import Mapping\n    class M(Mapping):\n"
        "        def __getitem__(self, n): raise OSError(n)\n"
        "        def __iter__(self): return iter('ab')\n        def __len__(self): return 2\n    return M()"
    ),
    "moves": "import os; os.chdir('/')",
    "clears the path": "import sys; sys.path.clear()",
    "replaces the path": "import sys; sys.path = 5",
    "replaces stdout": "import sys, io; sys.stdout = io.StringIO()",
    "replaces stderr": "import sys, io; sys.stderr = io.StringIO()",
    "removes stdout": "import sys; sys.stdout = None",
    "prints": "print('printed')",
}


@pytest.mark.parametrize("json", [False, True])
def test_check_of_a_hostile_module_is_one_line(
    json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, record_property: Callable[..., None]
) -> None:
    sources = {**_IMPORTS, **{f"call {label}": f"def make():\n    {body}" for label, body in _CALLS.items()}}
    record_property("attacks", len(sources))
    for number, (label, source) in enumerate(sources.items()):
        monkeypatch.chdir(tmp_path)
        name = f"hostile_{json}_{number}"
        (tmp_path / f"{name}.py").write_text(source)
        path, streams = list(sys.path), (sys.stdout, sys.stderr)
        assert main(["check", f"{name}:make", *(["--json"] if json else [])]) == 2, label
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line != "printed"]
        assert printed.out == "", label
        assert len(lines) == 1, label
        assert lines[0].startswith("autotrainer: "), label
        assert lines[0].isprintable(), label
        assert sys.path == path, label
        assert (sys.stdout, sys.stderr) == streams, label


def test_output_of_the_module_is_not_part_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "import torch\nprint('printed')\ndef make():\n    print('called')\n"
    (tmp_path / "loud_training.py").write_text(
        source + "    return torch.nn.Linear(2, 1), (torch.rand(64, 2), torch.rand(64, 1))\n"
    )
    assert main(["check", "loud_training:make", "--json"]) in (0, 1)
    printed = capsys.readouterr()
    assert printed.out.startswith("[")
    assert printed.err == "printed\ncalled\n"


@pytest.mark.parametrize(
    "target", ["", ":", "a", "a:", ":b", "a b:c", "a.:b", ".a:b", "a..b:c", "a/b:c", "a\nb:c", "a\0b:c", "\ud800:b",
               "x" * 5000 + ":b", "no_such.module:b", "os.path.no:b", "os:no", "os:a.b", "sys:exit", "builtins:quit",
               "1:b", "-:b"]
)  # fmt: skip
def test_check_of_an_odd_name_is_one_line(target: str, capsys: Capture, record_property: Callable[..., None]) -> None:
    record_property("attacks", 1)
    assert main(["check", target]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("autotrainer: ")
    assert printed.err.count("\n") == 1


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with things to run and things that can't be run."""
    for folder in ("hollow", "with_main", "package", "deep/inner"):
        (tmp_path / folder).mkdir(parents=True)
    code = "import sys\nprint(__name__, __package__, sys.argv[1:], __file__.split('/')[-2:], len(sys.path))\n"
    (tmp_path / "with_main" / "__main__.py").write_text(code + "import beside\nsys.exit(beside.STATUS)")
    (tmp_path / "with_main" / "beside.py").write_text("STATUS = 5")
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "fails.py").write_text("raise ImportError('wanted')")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(7)")
    (tmp_path / "imports.py").write_text("import no_such_module_of_anyone")
    (tmp_path / "opens.py").write_text("open('no such file')")
    (tmp_path / "syntax.py").write_text("def f(:")
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    (tmp_path / "nul.py").write_bytes(b"a\0b")
    (tmp_path / "empty.py").write_bytes(b"")
    (tmp_path / "text.zip").write_text("print('no archive')")
    (tmp_path / "line\nbreak.py").write_text("print(__name__)")
    for name, member in (("main.zip", "__main__.py"), ("other.zip", "other.py")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "import sys\nprint(__name__, sys.argv[1:])\nsys.exit(3)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["hollow"], ["package"], ["."], [""], ["-"], ["deep"], ["no.py"], ["no/no.py"], ["a\0b"], ["\ud800"], ["a\nb.py"],
     ["x" * 5000], ["other.zip"], ["exits.py/x"], ["-m", "hollow"], ["-m", "package"], ["-m", ""], ["-m", "-"],
     ["-m", "no_module"], ["-m", "package.no"], ["-m", "exits.y"], ["-m", "sys"], ["-m", ".x"], ["-m", "a..b"],
     ["-m", "a b"], ["-m", "x" * 5000], ["-m", "a/b"], ["-m", "empty.py"]],
    ids=lambda arguments: ascii(" ".join(arguments))[:20],
)  # fmt: skip
def test_what_can_not_be_run_is_one_line(
    arguments: list[str], scripts: Path, capsys: Capture, record_property: Callable[..., None]
) -> None:
    record_property("attacks", 1)
    if arguments == ["-m", "exits.y"]:  # python runs the parent, too
        assert main(["run", *arguments]) == 7
        return
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("autotrainer: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["with_main", "-x"], ["main.zip", "a"], ["exits.py"], ["syntax.py"], ["binary.py"], ["nul.py"],
     ["empty.py"], ["text.zip"], ["imports.py"], ["opens.py"], ["line\nbreak.py"], ["/dev/null"], ["./with_main/"],
     ["-m", "with_main"], ["-m", "exits"], ["-m", "syntax"], ["-m", "package.fails"]],
    ids=lambda arguments: ascii(" ".join(arguments))[:20],
)  # fmt: skip
def test_scripts_end_as_with_python(
    arguments: list[str], scripts: Path, capsys: Capture, record_property: Callable[..., None]
) -> None:
    record_property("attacks", 1)
    plain = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=scripts, check=False)
    sys.modules.pop("beside", None)
    assert main(["run", *arguments]) == plain.returncode
    printed = capsys.readouterr()
    clip = lambda text: text.rpartition(" ")[0]  # the length of sys.path is that of this process  # noqa: E731
    assert clip(printed.out) == clip(plain.stdout)
    last = plain.stderr.strip().splitlines()[-1:]
    if last and "binary" not in arguments[0] and "nul" not in arguments[0]:
        assert last[0] in printed.err


@pytest.mark.slow
def test_odd_report_paths(
    tmp_path: Path,
    run_forked: Callable[..., list[subprocess.CompletedProcess[str]]],
    record_property: Callable[..., None],
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "train.py").write_text(
        "import torch\nmodel = torch.nn.Linear(2, 1)\noptimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(3):\n    optimizer.zero_grad()\n    model(torch.rand(8, 2)).mean().backward()\n"
        "    optimizer.step()\n"
    )
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from autotrainer.cli import main; "
        "sys.exit(main(['run', '-o', sys.argv[1], 'train.py']))"
    )
    names = ["folder.html", "file/report.html", "/dev/full/x.html", "x" * 300 + ".html", "\udcff.html"]
    record_property("attacks", len(names))
    for name, ran in zip(names, run_forked(*((code, [name], {}) for name in names)), strict=True):
        assert ran.returncode == (0 if name == "\udcff.html" else 2), (name, ran.stderr)
        assert "Traceback" not in ran.stderr, name


@pytest.mark.parametrize(
    "arguments",
    [["--fail-on", ""], ["--fail-on", "ERROR"], ["--fail-on", "\x1b[31m"], ["--log-dir", ""], ["--log-dir", "a\0b"],
     ["--log-dir", "\ud800"], ["--epochs", "9" * 5000], ["--epochs", "1e3"], ["--epochs", "-1"], ["--steps", "nan"],
     ["--threshold", "="], ["--threshold", ""], ["--threshold", "a=1"], ["--threshold", "vanishing_gradient.ratio=nan"],
     ["--threshold", "vanishing_gradient.ratio=-1e999"],
     ["--select", ""], ["--select", "\x1b[31m"],
     ["--ignore", "x" * 5000], ["-o", ""], ["-o", "."], ["-o", ".html"], ["-o", "x.exe"]],
    ids=lambda arguments: ascii("".join(arguments))[:24],
)  # fmt: skip
def test_odd_options_are_one_line(
    arguments: list[str], scripts: Path, capsys: Capture, record_property: Callable[..., None]
) -> None:
    record_property("attacks", 1)
    status = main(["run", *arguments, "empty.py"])
    printed = capsys.readouterr()
    assert status == 2, printed.err
    assert printed.err.startswith("autotrainer: ")
    assert printed.err.count("\n") == 1

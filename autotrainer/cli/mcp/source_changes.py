"""Repair plans as changes of the user's source, where it is certain what they mean there; else the reason why not.

Certain is: one call in the source can be meant, its arguments are written out, its present value is that of the run,
and nothing else in the source sets it, too. No guess is made: then there are only the lines of the plan.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

from autotrainer import edits as e
from autotrainer.cli.mcp.source_code import Replacement, Source, UnclearError, callee
from autotrainer.records.task import TaskContext
from autotrainer.reporting.plan import RepairPlan

__all__ = ["SourceChanges", "change_sources"]

_OPTIMIZERS = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "NAdam", "Nadam", "RAdam",
    "RMSprop", "Rprop", "SGD",
)  # fmt: skip
_SCHEDULES = ("scheduler", "Scheduler", "Schedule", "OneCycle", "CosineDecay", "param_groups")
_CONTEXT_LINES = 3

Change = tuple[Source, list[Replacement]]


@dataclass(frozen=True, slots=True)
class SourceChanges:
    """What of a plan could be written into the source.

    Attributes:
        diff: The changes as a unified diff; empty if none is certain.
        certain: The edits that it holds.
        reasons: Why each of the other edits is not in it.
    """

    diff: str
    certain: tuple[e.Edit, ...]
    reasons: Mapping[e.Edit, str]


@dataclass(frozen=True, slots=True)
class _Code:
    """The sources that a plan may change, with what is known of the training."""

    sources: Sequence[Source]
    framework: str
    context: TaskContext | None

    @property
    def torch(self) -> bool:
        return self.framework == "pytorch"

    def the_call(
        self, *names: str, where: Callable[[Source, ast.Call], bool] = lambda *_: True
    ) -> tuple[Source, ast.Call]:
        """Return the only call of one of some names.

        Raises:
            UnclearError: If there is none, or several.
        """
        calls = [(s, call) for s in self.sources for call in s.calls(*names) if where(s, call)]
        if len(calls) != 1:
            what = names[0] if len(names) == 1 else "an optimizer" if names == _OPTIMIZERS else " or ".join(names)
            raise UnclearError(f"the source has {len(calls)} calls of {what} that may be meant, not one")
        return calls[0]

    def the_optimizer(self) -> tuple[Source, ast.Call]:
        """Return the call that creates the optimizer.

        Raises:
            UnclearError: If there are several optimizers, or it is another one than that of the run.
        """
        source, call = self.the_call(*_OPTIMIZERS)
        known = None if self.context is None else self.context.optimizer
        if known is not None and known.several:
            raise UnclearError("the training has several optimizers")
        if known is not None and known.name not in ("unknown", callee(call).lower()):
            raise UnclearError(f"the source creates {callee(call)}, but the run had {known.name}")
        return source, call

    def rate(self, source: Source, call: ast.Call) -> ast.expr:
        """Return the constant that is the learning rate.

        Raises:
            UnclearError: If it is not written out, is not that of the run, or is scheduled.
        """
        name, position = ("lr", 1) if self.torch else ("learning_rate", 0)
        node = source.argument(call, name, position)
        if node is None:
            raise UnclearError("the learning rate is the default of the optimizer")
        constant, value = source.number(node)
        known = math.nan if self.context is None else self.context.optimizer.learning_rate
        if math.isfinite(known) and not math.isclose(value, known, rel_tol=1e-6):
            raise UnclearError(f"the source says {value:g}, but the run had a learning rate of {known:g}")
        schedules = [word for each in self.sources for word in each.mentions(*_SCHEDULES)]
        if schedules or (self.context is not None and self.context.optimizer.scheduled):
            raise UnclearError("a schedule sets the learning rate, too")
        groups = self.torch and any(each.has_key("params") for each in self.sources)
        if groups or (self.context is not None and self.context.optimizer.group_rates):
            raise UnclearError("groups of parameters may have learning rates of their own")
        return constant


def change_sources(plan: RepairPlan, sources: Sequence[Source], context: TaskContext | None) -> SourceChanges:
    """Write a plan into the user's source as far as it is certain where it belongs.

    Args:
        plan: The plan.
        sources: The files that may be changed.
        context: What is known of the training; None if nothing is.
    """
    code = _Code(sources, plan.framework, context)
    certain: list[e.Edit] = []
    reasons: dict[e.Edit, str] = {}
    taken: list[Change] = []
    for edit in plan.edits:
        try:
            if plan.start:
                raise UnclearError(f"it takes effect only from epoch {plan.start} on")
            if not sources:
                raise UnclearError("the file of the training is not known: pass it as `file`")
            source, replacements = _change(edit, code)
            if any(_overlap(replacements, others) for other, others in taken if other is source):
                raise UnclearError("another change of the plan concerns the same code")
        except UnclearError as error:
            reasons[edit] = str(error)
        else:
            taken.append((source, replacements))
            certain.append(edit)
    diff = "".join(_diff(s, [r for other, rs in taken if other is s for r in rs]) for s in sources)
    return SourceChanges(diff, tuple(certain), reasons)


def _diff(source: Source, replacements: Sequence[Replacement]) -> str:
    if not replacements:
        return ""
    parts, end = [], 0
    for part in sorted(replacements, key=lambda part: (part.start, part.end)):
        parts += [source.text[end : part.start], part.text]
        end = part.end
    text = "".join([*parts, source.text[end:]])
    Source(source.name, text)  # still Python
    old, new = (each.splitlines(keepends=True) for each in (source.text, text))
    lines = difflib.unified_diff(old, new, f"a/{source.name}", f"b/{source.name}", n=_CONTEXT_LINES)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _overlap(one: Sequence[Replacement], other: Sequence[Replacement]) -> bool:
    return any((a.start < b.end and b.start < a.end) or a == b for a in one for b in other)


@singledispatch
def _change(edit: e.Edit, code: _Code) -> Change:
    raise UnclearError("where it belongs depends on how the program is built")


@_change.register
def _(edit: e.SetLearningRate, code: _Code) -> Change:
    source, call = code.the_optimizer()
    return source, [Replacement(*source.span(code.rate(source, call)), f"{edit.value:g}")]


@_change.register
def _(edit: e.SetMomentum, code: _Code) -> Change:
    source, call = code.the_optimizer()
    if callee(call) != "SGD":
        raise UnclearError(f"{callee(call)} has no plain momentum")
    changes = [source.set_keyword(call, "momentum", f"{edit.value:g}", position=2 if code.torch else 1)]
    if edit.nesterov:
        changes.append(source.set_keyword(call, "nesterov", "True"))
    return source, changes


@_change.register
def _(edit: e.SwapOptimizer, code: _Code) -> Change:
    source, call = code.the_optimizer()
    code.rate(source, call)
    first = call.args[:1] if code.torch else []
    given = {keyword.arg for keyword in call.keywords} - {"params", "lr", "learning_rate", "momentum", "nesterov"}
    if given - {"weight_decay"} or len(call.args) > 2 or (code.torch and not first):
        raise UnclearError("the present optimizer has settings that another one may not have")
    if not isinstance(call.func, ast.Attribute):
        raise UnclearError("the new optimizer has to be imported")
    name = "NAdam" if code.torch and edit.name == "nadam" else e.OPTIMIZERS[edit.name]
    arguments = [ast.get_source_segment(source.text, first[0]) or ""] if first else []
    arguments += [f"{'lr' if code.torch else 'learning_rate'}={edit.learning_rate:g}"]
    arguments += [f"momentum={edit.momentum:g}"] if edit.momentum else []
    arguments += [f"weight_decay={edit.weight_decay:g}"] if edit.weight_decay or edit.name == "adamw" else []
    module = ast.get_source_segment(source.text, call.func.value)
    return source, [Replacement(*source.span(call), f"{module}.{name}({', '.join(arguments)})")]


@_change.register
def _(edit: e.ClipGradients, code: _Code) -> Change:
    if any(
        True for source in code.sources for _ in source.mentions("clip_grad", "clipnorm", "clipvalue", "GradScaler")
    ):
        raise UnclearError("the source clips or scales gradients already")
    source, call = code.the_optimizer()
    if not code.torch:
        keyword = "global_clipnorm" if edit.kind == "norm" else "clipvalue"
        return source, [source.set_keyword(call, keyword, f"{edit.limit:g}")]
    match source.argument(call, "params", 0):
        case ast.Call(func=ast.Attribute(value=ast.Name(id=model), attr="parameters"), args=[], keywords=[]):
            pass
        case _:
            raise UnclearError("the optimizer is not created over the parameters of one model")
    optimizer = _variable(source, call)
    step_source, step = code.the_call("step", where=lambda _, c: _is_method(c, optimizer))
    if step_source is not source or step.args or step.keywords:
        raise UnclearError("optimizer.step is called with arguments, or in another file")
    if not any(
        isinstance(n, ast.Import) and any(a.name == "torch" and not a.asname for a in n.names) for n in source.tree.body
    ):
        raise UnclearError("torch is not imported by its name")
    statement = source.statement_of(step)
    line = f"torch.nn.utils.clip_grad_{edit.kind}_({model}.parameters(), {edit.limit:g})"
    return source, [source.before(statement, line)]


@_change.register
def _(edit: e.RestoreZeroGrad, code: _Code) -> Change:
    source, call = code.the_optimizer()
    if not code.torch or any(each.calls("zero_grad") for each in code.sources):
        raise UnclearError("the source calls zero_grad somewhere")
    optimizer = _variable(source, call)
    backward_source, backward = code.the_call("backward")
    if backward_source is not source:
        raise UnclearError("backward is called in another file than the optimizer is created in")
    return source, [source.before(source.statement_of(backward), f"{optimizer}.zero_grad()")]


@_change.register
def _(edit: e.SetBatchSize, code: _Code) -> Change:
    source, call = _loader(code) if code.torch else code.the_call("fit")
    node = source.argument(call, "batch_size", 1 if code.torch else None)
    if node is None:
        raise UnclearError("the size of batches is not written out")
    constant, value = source.number(node)
    known = None if code.context is None else code.context.batch_size
    if known is not None and value != known:
        raise UnclearError(f"the source says {value:g}, but the run had batches of {known}")
    return source, [Replacement(*source.span(constant), str(edit.size))]


@_change.register
def _(edit: e.ShuffleData, code: _Code) -> Change:
    source, call = code.the_call("DataLoader") if code.torch else code.the_call("fit")
    if any(source.argument(call, name) is not None for name in ("sampler", "batch_sampler")):
        raise UnclearError("a sampler decides the order")
    if not code.torch and source.argument(call, "shuffle") is None:
        raise UnclearError("fit shuffles arrays already; a data set has to be shuffled where it is made")
    return source, [source.set_keyword(call, "shuffle", "True", position=2 if code.torch else None)]


@_change.register
def _(edit: e.ExtendTraining, code: _Code) -> Change:
    planned = None if code.context is None else code.context.planned_epochs
    if code.torch:
        source, call = code.the_call("range", where=lambda s, c: len(c.args) == 1 and _is_epochs(s, c, planned))
        node: ast.expr | None = call.args[0]
    else:
        source, call = code.the_call("fit")
        node = source.argument(call, "epochs")
    if node is None:
        raise UnclearError("the number of epochs is not written out")
    constant, value = source.number(node)
    if planned is not None and value != planned:
        raise UnclearError(f"the source says {value:g}, but the run had {planned} epochs")
    return source, [Replacement(*source.span(constant), str(edit.epochs))]


def _loader(code: _Code) -> tuple[Source, ast.Call]:
    """Return the loader of the training data: the only one, or the only one that shuffles."""

    def shuffles(source: Source, call: ast.Call) -> bool:
        node = source.argument(call, "shuffle", 2)
        return isinstance(node, ast.Constant) and node.value is True

    try:
        return code.the_call("DataLoader")
    except UnclearError:
        return code.the_call("DataLoader", where=shuffles)


def _variable(source: Source, call: ast.Call) -> str:
    """Return the variable that holds the result of a call.

    Raises:
        UnclearError: If there is none.
    """
    for node in ast.walk(source.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is call:
                return name
    raise UnclearError("the optimizer is not assigned to a variable")


def _is_method(call: ast.Call, variable: str) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id=name)):
            return name == variable
    return False


def _is_epochs(source: Source, call: ast.Call, planned: int | None) -> bool:
    """Return whether ``range(…)`` counts epochs: ``for epoch in …``, or the planned number."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.For) and node.iter is call and isinstance(node.target, ast.Name):
            return "epoch" in node.target.id.lower()
    try:
        return planned is not None and source.number(call.args[0])[1] == planned
    except UnclearError:
        return False

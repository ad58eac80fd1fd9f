"""Pieces of `Backend.patch` that are the same in every framework."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from autotrainer.edits import Edit, EncodeTargets, ScaleInputs, ScaleTargets, SwapOptimizer, WarmUpRate
from autotrainer.safe_text import safe_line

__all__ = [
    "column_lines",
    "commented",
    "literal",
    "number_list",
    "optimizer_arguments",
    "scaling_lines",
    "target_lines",
    "warm_up_steps",
    "zero_one_line",
]

_PLAIN_NAME = re.compile(r"[\w./-]+")
_ROUNDING = 1e-6
"""Error of a number in a patch ÷ the scale that it is measured on, at most."""
_UNLIMITED = 1e38
"""Limit of outputs that are not limited, within single precision."""


_WRITTEN_OUT = 32
"""Most columns whose numbers a patch writes out; those of more are computed from the training data again."""


def literal(value: str | Sequence[str]) -> str:
    """Return a name, or a list or tuple of names, as a literal in Python: in ASCII, so that it is what it looks like.

    Names enter lines of code as literals only, never as identifiers.
    """
    if isinstance(value, str):
        return ascii(value)
    items = ", ".join(map(ascii, value))
    return f"({items},)" if isinstance(value, tuple) else f"[{items}]"


def commented(names: Iterable[str]) -> str:
    """Return names for a comment: as they are where they are plain, else as literals."""
    return ", ".join(safe_line(name if _PLAIN_NAME.fullmatch(name) else literal(name)) for name in names)


def number_list(values: Sequence[float], scales: Sequence[float] = ()) -> str:
    """Return numbers as a list in Python.

    Args:
        values: The numbers.
        scales: What each is divided by after it was subtracted: a number far larger than its scale gets as many digits
            as keep its error below a millionth of it. The others have six digits.
    """
    units = scales if len(scales) == len(values) else [math.inf] * len(values)
    return f"[{', '.join(map(_rounded, values, units))}]"


def _rounded(value: float, unit: float) -> str:
    texts = (f"{value:.{digits}g}" for digits in range(6, 17))
    return next((text for text in texts if not abs(float(text) - value) > _ROUNDING * unit), repr(float(value)))


def column_lines(edit: ScaleInputs, library: str) -> list[str]:
    """Return the lines that take columns on a logarithmic scale; none if there is no such column.

    Args:
        edit: The scaling, with fitted numbers.
        library: Name under which the module with the arrays is imported: ``torch`` or ``np``.
    """
    columns = edit.logarithmic
    if not columns:
        return []
    array, arcsinh = ("torch.tensor", "torch.asinh") if library == "torch" else ("np.array", "np.arcsinh")
    copy = "x.clone()" if library == "torch" else "x.copy()"
    center, scale = ([numbers[column] for column in columns] for numbers in (edit.log_center, edit.log_scale))
    return [
        f"x, log = {copy}, {list(columns)}  # columns on a logarithmic scale",
        f"center, scale = {array}({number_list(center, scale)}), {array}({number_list(scale)})",
        f"x[:, log] = {arcsinh}((x[:, log] - center) / scale)",
    ]


def scaling_lines(edit: ScaleInputs, library: str) -> list[str]:
    """Return the lines that scale inputs. Statistics of many columns are computed instead of being written out.

    Args:
        edit: The scaling, with fitted numbers.
        library: Name under which the module with the arrays is imported: ``torch`` or ``np``.
    """
    torch = library == "torch"
    array = "torch.tensor" if torch else "np.array"
    missing = _missing_lines(edit, library)
    numbers = [f"mean, std = {array}({number_list(edit.mean, edit.std)}), {array}({number_list(edit.std)})"]
    if len(edit.mean) > _WRITTEN_OUT and not (edit.logarithmic or edit.missing):
        deviation = "x_train.std(0, correction=0)" if torch else "x_train.std(axis=0)"
        numbers = [
            f"mean, std = x_train.mean({'0' if torch else 'axis=0'}), {deviation}  # of {len(edit.mean)} columns",
            "std[std == 0] = 1",
        ]
    dropped = [f"x[:, {list(edit.dropped)}] = 0  # constant, or row numbers"] if edit.dropped else []
    if len(edit.constant) > _WRITTEN_OUT:
        constant = "(x_train == x_train[:1])"
        columns = f"{constant}.all(0)" if torch else f"{constant}.all(axis=0)"
        dropped = [f"x[:, {columns}] = 0  # {len(edit.constant)} constant columns"]
        dropped += [f"x[:, {list(edit.row_numbers)}] = 0  # row numbers"] if edit.row_numbers else []
    scaled = "x = (x - mean) / std  # wherever the model is used"
    filled = [f"x[:, {column}][missing[{place}]] = {fill:.6g}" for place, (column, _, fill) in enumerate(edit.missing)]
    return [*numbers, *missing, *column_lines(edit, library), scaled, *filled, *dropped]


def _missing_lines(edit: ScaleInputs, library: str) -> list[str]:
    """Return the lines that find the numbers which stand for missing values."""
    if not edit.missing:
        return []
    found = ", ".join(f"x[:, {column}] == {code:.9g}" for column, code, _ in edit.missing)
    zeros = [f"x[:, {column}][missing[{place}]] = 0" for place, (column, _, _) in enumerate(edit.missing)]
    copy = "x.clone()" if library == "torch" else "x.copy()"
    return [
        f"missing, x = [{found}], {copy}  # numbers that stand for missing values",
        *(zeros if edit.logarithmic else []),
    ]


def target_lines(edit: ScaleTargets, library: str, targets: str, outputs: str) -> list[str]:
    """Return the lines that scale targets on a logarithmic scale, and convert predictions back.

    Args:
        edit: The scaling, with fitted numbers.
        library: Name under which the module with the arrays is imported: ``torch`` or ``np``.
        targets: Name of the targets.
        outputs: The expression that gives the model's outputs for ``x``.
    """
    array, arcsinh = ("torch.tensor", "torch.asinh") if library == "torch" else ("np.array", "np.arcsinh")
    scales = [scale or 1.0 for scale in edit.log_scale]
    numbers = f"{array}({number_list(edit.log_center, scales)}), {array}({number_list(scales)})"
    reach = [reach if scale else _UNLIMITED for reach, scale in zip(edit.log_reach, edit.log_scale, strict=True)]
    limit = f"{'torch.clamp' if library == 'torch' else 'np.clip'}({outputs}, -reach, reach)"
    changed, grown = f"{arcsinh}(({targets} - center) / scale)", f"{library}.sinh(z) * scale + center"
    lines = [f"center, scale = {numbers}", f"reach = {array}({number_list(reach)})  # of the training targets"]
    if not all(edit.log_scale):  # some columns stay linear
        lines.append(f"log = {array}({[scale > 0 for scale in edit.log_scale]})")
        changed, grown = (f"{library}.where(log, {new}, {old})" for new, old in ((changed, targets), (grown, "z")))
    return [
        *lines,
        f"{targets} = ({changed} - mean) / std  # for the loss alone",
        f"to_units = lambda z: {grown}",
        f"predict = lambda x: to_units({limit} * std + mean)  # in the units of your targets",
    ]


def optimizer_arguments(edit: SwapOptimizer) -> str:
    """Return the arguments of an optimizer after its learning rate."""
    momentum = f", momentum={edit.momentum:g}" if edit.momentum else ""
    # written for AdamW even if it is 0: its default is another
    decay = f", weight_decay={edit.weight_decay:g}" if edit.weight_decay or edit.name == "adamw" else ""
    return momentum + decay


def warm_up_steps(edits: Sequence[Edit]) -> int:
    """Return the length of the warm-up among the edits of a plan, 0 without one."""
    return next((edit.steps for edit in edits if isinstance(edit, WarmUpRate)), 0)


def zero_one_line(name: str, edit: EncodeTargets) -> str:
    """Return the line that makes two labels 0 and 1 in an array of this name."""
    low, high = edit.labels
    moved = f"{name} {'-' if low > 0 else '+'} {abs(low):g}" if low else name
    return f"{name} = {moved}" if high - low == 1 else f"{name} = ({moved}) / {high - low:g}"

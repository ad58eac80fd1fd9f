"""Lines of PyTorch code for edits of what goes into a training."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import number_list, scaling_lines, target_lines, zero_one_line
from autotrainer.backends.pytorch.patches.base import patch_lines

_FORMS = {
    "index": ["y = y.argmax(1) if y.ndim > 1 and y.shape[1] > 1 else y.reshape(-1).long()"],
    "one_hot": ["y = nn.functional.one_hot(y.reshape(-1).long(), z.shape[1]).to(z)  # z: the outputs"],
    "signed": ["y = 2 * y - 1"],
}


@patch_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [
        "train_loader = torch.utils.data.DataLoader("
        f"train_loader.dataset, batch_size={edit.size}, shuffle=True)  # with the other options of your loader"
    ]


@patch_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [
        "spread = x.std(0, correction=0) if x.ndim == 2 else x.std(correction=0)  # per column of a table",
        f"x = x + {edit.std:g} * spread * torch.randn_like(x)  # in training only",
    ]


@patch_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(0)) / x_train.std(0)  # wherever the model is used"]
    return scaling_lines(edit, "torch")


@patch_lines.register
def _(edit: e.ScaleTargets) -> list[str]:
    if not edit.mean:
        scale = "y = torch.asinh(y / y_train.abs().quantile(0.05))  # and y_train alike; " if edit.logarithm else ""
        return [
            *([scale + "predictions: torch.sinh"] if scale else []),
            "y = (y - y_train.mean(0)) / y_train.std(0)  # for the loss; predictions: model(x) * std + mean",
        ]
    if edit.logarithm:
        return [
            f"mean, std = torch.tensor({number_list(edit.mean, edit.std)}), torch.tensor({number_list(edit.std)})",
            *target_lines(edit, "torch", "y", "model(x)"),
        ]
    return [
        f"mean, std = torch.tensor({number_list(edit.mean, edit.std)}), torch.tensor({number_list(edit.std)})",
        "y = (y - mean) / std  # for the loss alone",
        "predict = lambda x: model(x) * std + mean  # in the units of your targets",
    ]


@patch_lines.register
def _(edit: e.ScaleEachTarget) -> list[str]:
    return [
        "# in the loss, for an output z with targets y far from unit scale:  z, y = (z - mean) / std, (y - mean) / std"
    ]


@patch_lines.register
def _(edit: e.LeadPadding) -> list[str]:
    token = "padding_token" if edit.token is None else str(edit.token)
    return [
        "at = torch.arange(x.shape[1], device=x.device)  # of tokens x, before the model or at the start of forward",
        f"x = x.gather(1, (at + ((x != {token}) * (at + 1)).amax(1, keepdim=True)) % x.shape[1])",
    ]


@patch_lines.register
def _(edit: e.EncodeTargets) -> list[str]:
    return [zero_one_line("y", edit)] if edit.to == "zero_one" else _FORMS[edit.to]


@patch_lines.register
def _(edit: e.NumberClasses) -> list[str]:
    if not edit.labels:
        return ["labels, y = torch.unique(y_train, return_inverse=True)  # labels[model(x).argmax(1)] is the label"]
    return [
        f"labels = torch.tensor({list(edit.labels)})",
        "y = torch.searchsorted(labels, y)  # for the loss; labels[model(x).argmax(1)] is the label",
    ]


@patch_lines.register
def _(edit: e.ReshapeTargets) -> list[str]:
    return ["y = y.reshape(z.shape)  # z: the outputs"]


@patch_lines.register
def _(edit: e.ShuffleData) -> list[str]:
    return [
        "train_loader = torch.utils.data.DataLoader("
        "train_loader.dataset, train_loader.batch_size, shuffle=True)  # with the other options of your loader"
    ]


@patch_lines.register
def _(edit: e.WeightClasses) -> list[str]:
    code = [f"weights = torch.tensor({number_list(edit.weights)})"] if edit.weights else [
        "counts = torch.bincount(y_train.reshape(-1).long())",
        "weights = len(y_train) / (len(counts) * counts.clamp_min(1))",
    ]  # fmt: skip
    return [*code, "# nn.CrossEntropyLoss(weight=weights), or a loss with reduction='none' times weights[y]"]


@patch_lines.register
def _(edit: e.DropBadRows) -> list[str]:
    return [
        "good = torch.isfinite(x_train.flatten(1)).all(1) & torch.isfinite(y_train.reshape(len(y_train), -1)).all(1)",
        "x_train, y_train = x_train[good], y_train[good]",
    ]

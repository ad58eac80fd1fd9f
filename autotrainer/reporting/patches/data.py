"""Edits of what goes into a training, in words and lines."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.reporting.patches.base import keras_lines, numbers, pytorch_lines, words

_FORMS = {
    "index": "as class indices",
    "one_hot": "as one-hot rows",
    "signed": "as -1 and 1 (from 0 and 1)",
}
_PYTORCH_FORMS = {
    "index": ["y = y.argmax(1) if y.ndim > 1 and y.shape[1] > 1 else y.reshape(-1).long()"],
    "one_hot": ["y = nn.functional.one_hot(y.reshape(-1).long(), z.shape[1]).to(z)  # z: the outputs"],
    "signed": ["y = 2 * y - 1"],
}
_KERAS_FORMS = {
    "index": ["y_train = y_train.argmax(-1) if y_train.ndim > 1 else y_train"],
    "one_hot": ["y_train = keras.utils.to_categorical(y_train, model.output_shape[-1])"],
    "signed": ["y_train = 2 * y_train - 1"],
}


def _zero_one(name: str, edit: e.EncodeTargets) -> list[str]:
    low, high = edit.labels
    moved = f"{name} {'-' if low > 0 else '+'} {abs(low):g}" if low else name
    return [f"{name} = {moved}" if high - low == 1 else f"{name} = ({moved}) / {high - low:g}"]


def _weights(edit: e.WeightClasses) -> str:
    if not edit.weights:
        return "rows / (classes * rows of the class)"
    return _shown(edit.weights)


def _shown(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers[:8]) + (", …" if len(numbers) > 8 else "")


@words.register
def _(edit: e.SetBatchSize) -> str:
    return f"batches of {edit.size} samples"


@words.register
def _(edit: e.AddInputNoise) -> str:
    return f"Gaussian noise on the inputs while training, {edit.std:g} of their standard deviation"


@words.register
def _(edit: e.ScaleInputs) -> str:
    return "inputs standardized inside the model with mean and standard deviation of the training data"


@words.register
def _(edit: e.ScaleTargets) -> str:
    if not edit.mean:
        return (
            "targets standardized for the loss with mean and standard deviation of the training data, outputs put back"
        )
    return f"targets less {_shown(edit.mean)}, divided by {_shown(edit.std)}, for the loss; outputs put back"


@words.register
def _(edit: e.EncodeTargets) -> str:
    form = "as 0 and 1 (from {:g} and {:g})".format(*edit.labels) if edit.to == "zero_one" else _FORMS[edit.to]
    return f"targets encoded for the loss {form}"


@words.register
def _(edit: e.NumberClasses) -> str:
    named = f" {edit.labels[0]} … {edit.labels[-1]}" if edit.labels else ""
    return f"classes numbered from 0 for the model, its outputs put into the columns of the labels{named}"


@words.register
def _(edit: e.ReshapeTargets) -> str:
    return "targets in the shape of the outputs"


@words.register
def _(edit: e.ShuffleData) -> str:
    return "training rows shuffled anew in each epoch"


@words.register
def _(edit: e.WeightClasses) -> str:
    return f"rows weighed in the loss by their class: {_weights(edit)}"


@words.register
def _(edit: e.DropBadRows) -> str:
    which = "training rows" if edit.rows is None else f"{edit.rows} training rows"
    return f"{which} with NaN or infinite values left out"


@pytorch_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [
        "train_loader = torch.utils.data.DataLoader("
        f"train_loader.dataset, batch_size={edit.size}, shuffle=True)  # with the options that yours has"
    ]


@pytorch_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [
        "spread = x.std(0, correction=0) if x.ndim == 2 else x.std(correction=0)  # of a table by columns",
        f"x = x + {edit.std:g} * spread * torch.randn_like(x)  # in training only",
    ]


@pytorch_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(0)) / x_train.std(0)  # the numbers of the training data, everywhere"]
    return [
        f"mean, std = torch.tensor({numbers(edit.mean)}), torch.tensor({numbers(edit.std)})",
        "x = (x - mean) / std  # everywhere the model is used",
    ]


@pytorch_lines.register
def _(edit: e.ScaleTargets) -> list[str]:
    if not edit.mean:
        return ["y = (y - y_train.mean(0)) / y_train.std(0)  # for the loss; predictions: model(x) * std + mean"]
    return [
        f"mean, std = torch.tensor({numbers(edit.mean)}), torch.tensor({numbers(edit.std)})",
        "y = (y - mean) / std  # for the loss alone",
        "predict = lambda x: model(x) * std + mean  # in the units of your targets",
    ]


@pytorch_lines.register
def _(edit: e.EncodeTargets) -> list[str]:
    return _zero_one("y", edit) if edit.to == "zero_one" else _PYTORCH_FORMS[edit.to]


@pytorch_lines.register
def _(edit: e.NumberClasses) -> list[str]:
    if not edit.labels:
        return ["labels, y = torch.unique(y_train, return_inverse=True)  # labels[model(x).argmax(1)] is the answer"]
    return [
        f"labels = torch.tensor({list(edit.labels)})",
        "y = torch.searchsorted(labels, y)  # class indices for the loss; labels[model(x).argmax(1)] is the answer",
    ]


@pytorch_lines.register
def _(edit: e.ReshapeTargets) -> list[str]:
    return ["y = y.reshape(z.shape)  # z: the outputs"]


@pytorch_lines.register
def _(edit: e.ShuffleData) -> list[str]:
    return [
        "train_loader = torch.utils.data.DataLoader("
        "train_loader.dataset, train_loader.batch_size, shuffle=True)  # with the options that yours has"
    ]


@pytorch_lines.register
def _(edit: e.WeightClasses) -> list[str]:
    code = [f"weights = torch.tensor({numbers(edit.weights)})"] if edit.weights else [
        "counts = torch.bincount(y_train.reshape(-1).long())",
        "weights = len(y_train) / (len(counts) * counts.clamp_min(1))",
    ]  # fmt: skip
    return [*code, "# nn.CrossEntropyLoss(weight=weights), or a loss with reduction='none' times weights[y]"]


@pytorch_lines.register
def _(edit: e.DropBadRows) -> list[str]:
    return [
        "good = torch.isfinite(x_train.flatten(1)).all(1) & torch.isfinite(y_train.reshape(len(y_train), -1)).all(1)",
        "x_train, y_train = x_train[good], y_train[good]",
    ]


@keras_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"# model.fit(..., batch_size={edit.size})"]


@keras_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"# behind the input:  keras.layers.GaussianNoise({edit.std:g} * x_train.std())"]


@keras_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(axis=0)) / x_train.std(axis=0)  # the numbers of the training data, everywhere"]
    return [
        f"mean, std = np.array({numbers(edit.mean)}), np.array({numbers(edit.std)})",
        "x = (x - mean) / std  # everywhere the model is used",
    ]


@keras_lines.register
def _(edit: e.ScaleTargets) -> list[str]:
    fitted = ["mean, std = y_train.mean(axis=0), y_train.std(axis=0)"]
    if edit.mean:
        fitted = [f"mean, std = np.array({numbers(edit.mean)}), np.array({numbers(edit.std)})"]
    return [
        *fitted,
        "y_train = (y_train - mean) / std  # and the validation targets",
        "predict = lambda x: model.predict(x) * std + mean  # in the units of your targets",
    ]


@keras_lines.register
def _(edit: e.EncodeTargets) -> list[str]:
    return _zero_one("y_train", edit) if edit.to == "zero_one" else _KERAS_FORMS[edit.to]


@keras_lines.register
def _(edit: e.NumberClasses) -> list[str]:
    labels = f"np.array({list(edit.labels)})" if edit.labels else "np.unique(y_train)"
    return [
        f"labels = {labels}",
        "y_train = np.searchsorted(labels, y_train)  # labels[model.predict(x).argmax(-1)] is the answer",
    ]


@keras_lines.register
def _(edit: e.ReshapeTargets) -> list[str]:
    return ["y_train = y_train.reshape(len(y_train), *model.output_shape[1:])"]


@keras_lines.register
def _(edit: e.ShuffleData) -> list[str]:
    return ["# model.fit(..., shuffle=True); a tf.data.Dataset: .shuffle(number of rows) before .batch(...)"]


@keras_lines.register
def _(edit: e.WeightClasses) -> list[str]:
    if edit.weights:
        return [
            f"class_weight = dict(enumerate({numbers(edit.weights)}))",
            "# model.fit(..., class_weight=class_weight)",
        ]
    return [
        "labels, counts = np.unique(y_train, return_counts=True)",
        "class_weight = {int(k): len(y_train) / (len(labels) * n) for k, n in zip(labels, counts)}",
        "# model.fit(..., class_weight=class_weight)",
    ]


@keras_lines.register
def _(edit: e.DropBadRows) -> list[str]:
    return [
        "good = [np.isfinite(a.reshape(len(a), -1)).all(axis=1) for a in (x_train, y_train)]",
        "x_train, y_train = x_train[good[0] & good[1]], y_train[good[0] & good[1]]",
    ]

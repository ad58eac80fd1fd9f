"""Lines of Keras code for edits of what goes into a training."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import literal, number_list, scaling_lines, target_lines, zero_one_line
from autotrainer.backends.keras3.patches.base import patch_lines

_FORMS = {
    "index": ["y_train = y_train.argmax(-1) if y_train.ndim > 1 else y_train"],
    "one_hot": ["y_train = keras.utils.to_categorical(y_train, model.output_shape[-1])"],
    "signed": ["y_train = 2 * y_train - 1"],
}


@patch_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"# model.fit(..., batch_size={edit.size})"]


@patch_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"# after the input:  keras.layers.GaussianNoise({edit.std:g} * x_train.std())"]


@patch_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(axis=0)) / x_train.std(axis=0)  # wherever the model is used"]
    return scaling_lines(edit, "np")


@patch_lines.register
def _(edit: e.ScaleTargets) -> list[str]:
    fitted = ["mean, std = y_train.mean(axis=0), y_train.std(axis=0)"]
    if edit.mean:
        fitted = [f"mean, std = np.array({number_list(edit.mean, edit.std)}), np.array({number_list(edit.std)})"]
    if edit.logarithm and edit.mean:
        return [*fitted, *target_lines(edit, "np", "y_train", "model.predict(x)")]
    if edit.logarithm:
        fitted.insert(0, "y_train = np.arcsinh(y_train / np.quantile(np.abs(y_train), 0.05))  # predictions: np.sinh")
    return [
        *fitted,
        "y_train = (y_train - mean) / std  # and the validation targets",
        "predict = lambda x: model.predict(x) * std + mean  # in the units of your targets",
    ]


@patch_lines.register
def _(edit: e.ScaleEachTarget) -> list[str]:
    if not edit.outputs:
        return ["# y[name] = (y[name] - mean) / std for each output with numbers; predictions: * std + mean"]
    return [
        f"y[{literal(name)}] = (y[{literal(name)}] - {mean:.9g}) / {std:.9g}  # predictions: * {std:.9g} + {mean:.9g}"
        for name, mean, std in zip(edit.outputs, edit.mean, edit.std, strict=True)
    ]


@patch_lines.register
def _(edit: e.LeadPadding) -> list[str]:
    token = "padding_token" if edit.token is None else str(edit.token)
    return [
        f"lengths = ((x_train != {token}) * np.arange(1, x_train.shape[1] + 1)).max(axis=1, keepdims=True)",
        "at = (np.arange(x_train.shape[1]) + lengths) % x_train.shape[1]",
        "x_train = np.take_along_axis(x_train, at, axis=1)  # and the validation data",
    ]


@patch_lines.register
def _(edit: e.EncodeTargets) -> list[str]:
    return [zero_one_line("y_train", edit)] if edit.to == "zero_one" else _FORMS[edit.to]


@patch_lines.register
def _(edit: e.NumberClasses) -> list[str]:
    labels = f"np.array({list(edit.labels)})" if edit.labels else "np.unique(y_train)"
    return [
        f"labels = {labels}",
        "y_train = np.searchsorted(labels, y_train)  # labels[model.predict(x).argmax(-1)] is the label",
    ]


@patch_lines.register
def _(edit: e.ReshapeTargets) -> list[str]:
    return ["y_train = y_train.reshape(len(y_train), *model.output_shape[1:])"]


@patch_lines.register
def _(edit: e.ShuffleData) -> list[str]:
    return ["# model.fit(..., shuffle=True); a tf.data.Dataset: .shuffle(number of rows) before .batch(...)"]


@patch_lines.register
def _(edit: e.WeightClasses) -> list[str]:
    if edit.weights:
        return [
            f"class_weight = dict(enumerate({number_list(edit.weights)}))",
            "# model.fit(..., class_weight=class_weight)",
        ]
    return [
        "labels, counts = np.unique(y_train, return_counts=True)",
        "class_weight = {int(k): len(y_train) / (len(labels) * n) for k, n in zip(labels, counts)}",
        "# model.fit(..., class_weight=class_weight)",
    ]


@patch_lines.register
def _(edit: e.DropBadRows) -> list[str]:
    return [
        "good = [np.isfinite(a.reshape(len(a), -1)).all(axis=1) for a in (x_train, y_train)]",
        "x_train, y_train = x_train[good[0] & good[1]], y_train[good[0] & good[1]]",
    ]

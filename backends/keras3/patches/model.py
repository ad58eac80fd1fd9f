"""Lines of Keras code for edits of the model."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import commented
from autotrainer.backends.keras3.patches.base import layer_expression, patch_lines


def _activation(name: str) -> str:
    if name == "thresholded_relu":
        return "activation=lambda x: keras.activations.relu(x, threshold=1.0)"
    return f"activation={name!r}"


@patch_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in the last layer:  {_activation(edit.to)}"]


@patch_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    initializer = f", kernel_initializer={e.initializer_for(edit.to)!r}" if edit.reinitialize else ""
    return [f"# in {commented(edit.layers)}:  {_activation(edit.to)}{initializer}"]


@patch_lines.register
def _(edit: e.AddActivation) -> list[str]:
    return [f"# in {commented(edit.layers)}:  {_activation(edit.to)}"]


@patch_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [f"# in {commented(edit.layers)}:  kernel_initializer={edit.scheme!r}"]


@patch_lines.register
def _(edit: e.ThawLayers) -> list[str]:
    kept = f"  # then trainable = False for all layers but {commented(edit.layers)}" if edit.layers else ""
    return [f"model.trainable = True  # before compile(){kept}"]


@patch_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    layer = {"batch": "BatchNormalization()", "layer": "LayerNormalization()", "group": "GroupNormalization(8)"}
    return [f"# after {commented(edit.layers)}, before their activation:  keras.layers.{layer[edit.kind]}"]


@patch_lines.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# after the activation of {commented(edit.layers)}:  keras.layers.Dropout({edit.rate:g})"]


@patch_lines.register
def _(edit: e.LimitDropout) -> list[str]:
    return [f"# in {commented(edit.layers) if edit.layers else 'all layers'}:  a dropout rate of {edit.rate:g} at most"]


@patch_lines.register
def _(edit: e.DropPenalties) -> list[str]:
    where = commented(edit.layers) if edit.layers else "all layers"
    return [f"# in {where}:  no kernel_regularizer, bias_regularizer or the like"]


@patch_lines.register
def _(edit: e.ResizeLayers) -> list[str]:
    return [f"# in {commented([name])}:  {units} units" for name, units in zip(edit.layers, edit.units, strict=True)]


@patch_lines.register
def _(edit: e.ResizeOutputLayer) -> list[str]:
    name = f" ({commented(edit.layers)})" if edit.layers else ""
    return [f"# in the output layer{name}:  {edit.units} {'unit' if edit.units == 1 else 'units'}"]


@patch_lines.register
def _(edit: e.RestoreAxes) -> list[str]:
    return [f"# in place of the reshape to (n, {edit.classes}, {edit.positions}, …):  keras.ops.moveaxis(z, -1, 1)"]


@patch_lines.register
def _(edit: e.AddResidual) -> list[str]:
    return [
        "class Gate(keras.layers.Layer):",
        '    def build(self, shape): self.gate = self.add_weight(shape=(), initializer="zeros")',
        "    def call(self, x): return self.gate * x",
        f"# around each of {commented(edit.layers)}, activation included:",
        "#   x = keras.layers.Add()([x, Gate()(layer(x))])",
    ]


@patch_lines.register
def _(edit: e.ScaleOutputLayer) -> list[str]:
    scaled = f"set_weights([{edit.factor:g} * w for w in layer.get_weights()])"
    if not edit.layers:
        return [f"# before the first step, for the output layer:  layer.{scaled}"]
    return [f"layer = {layer_expression(name)}; layer.{scaled}" for name in edit.layers]


@patch_lines.register
def _(edit: e.ClipAttention) -> list[str]:
    return [
        "class CosineAttention(keras.layers.MultiHeadAttention):",
        "    def _compute_attention(self, query, key, value, *args, **kwargs):",
        f"        query = {edit.limit:g} / self._inverse_sqrt_key_dim * keras.ops.normalize(query, axis=-1)",
        "        key = keras.ops.normalize(key, axis=-1)",
        "        return super()._compute_attention(query, key, value, *args, **kwargs)",
        f"# use it instead of keras.layers.MultiHeadAttention in {commented(edit.layers)}",
    ]

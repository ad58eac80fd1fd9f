"""Edits of the model, in words and lines."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.reporting.patches.base import inner_layer, keras_lines, names, pytorch_lines, words

_MODULES = {
    "linear": "nn.Identity()",
    "relu": "nn.ReLU()",
    "selu": "nn.SELU()",
    "elu": "nn.ELU()",
    "leaky_relu": "nn.LeakyReLU()",
    "thresholded_relu": "nn.Threshold(1.0, 0.0)",
    "gelu": "nn.GELU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softmax": "nn.Softmax(dim=-1)",
}
_INITIALIZER_CALLS = {
    "he_uniform": "nn.init.kaiming_uniform_({}, nonlinearity='relu')",
    "he_normal": "nn.init.kaiming_normal_({}, nonlinearity='relu')",
    "lecun_normal": "nn.init.kaiming_normal_({}, nonlinearity='linear')",
    "glorot_uniform": "nn.init.xavier_uniform_({})",
    "glorot_normal": "nn.init.xavier_normal_({})",
    "orthogonal": "nn.init.orthogonal_({})",
}
_INITIALIZER_NAMES = {"he_uniform": "He uniform", "lecun_normal": "LeCun normal", "glorot_uniform": "Glorot uniform"}


def _each(layers: Sequence[str]) -> str:
    return "for name in (" + ", ".join(repr(name) for name in layers) + ",):"


def _activation(name: str) -> str:
    if name == "thresholded_relu":
        return "activation=lambda x: keras.activations.relu(x, threshold=1.0)"
    return f"activation={name!r}"


@words.register
def _(edit: e.SetOutputActivation) -> str:
    return "no activation on the output" if edit.to == "linear" else f"output activation {edit.to}"


@words.register
def _(edit: e.SwapActivation) -> str:
    drawn = f", weights redrawn ({_INITIALIZER_NAMES[e.initializer_for(edit.to)]})" if edit.reinitialize else ""
    return f"{names(edit.layers)}: activation {edit.to}{drawn}"


@words.register
def _(edit: e.Reinitialize) -> str:
    return f"{names(edit.layers)}: weights redrawn ({edit.scheme.replace('_', ' ')}), biases zero"


@words.register
def _(edit: e.InsertNormalization) -> str:
    return f"{names(edit.layers)}: {edit.kind} normalization between layer and activation"


@words.register
def _(edit: e.AddDropout) -> str:
    return f"{names(edit.layers)}: dropout {edit.rate:g} behind the activation"


@words.register
def _(edit: e.ResizeLayers) -> str:
    return ", ".join(f"`{name}`: {units} units" for name, units in zip(edit.layers, edit.units, strict=True))


@words.register
def _(edit: e.AddResidual) -> str:
    return f"{names(edit.layers)}: input led past layer and activation, with a gate that starts at 0"


@words.register
def _(edit: e.ScaleOutputLayer) -> str:
    return f"initial weights of the output layer{' ' * bool(edit.layers)}{names(edit.layers)} times {edit.factor:g}"


@words.register
def _(edit: e.ClipAttention) -> str:
    return f"{names(edit.layers)}: queries and keys of unit length, attention logits {edit.limit:g} · cos(query, key)"


@pytorch_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in place of the last activation, or behind the last layer:  {_MODULES[edit.to]}"]


@pytorch_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    module = _MODULES[edit.to]
    code = [f"# in forward, where it calls these layers' activation as a function:  {module}(…)"] if edit.calls else []
    code += [
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        f"    if not hasattr(layer, 'weight'): setattr(model.get_submodule(parent), child, {module})",
    ]
    if edit.reinitialize:
        draw = _INITIALIZER_CALLS[e.initializer_for(edit.to)].format("layer.weight")
        code += [
            "    elif layer.weight is not None and layer.weight.ndim > 1:",
            f"        {draw}",
            "        if layer.bias is not None: nn.init.zeros_(layer.bias)",
        ]
    return code


@pytorch_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [
        _each(edit.layers),
        "    for p in model.get_submodule(name).parameters(recurse=False):",
        f"        {_INITIALIZER_CALLS[edit.scheme].format('p')} if p.ndim > 1 else nn.init.zeros_(p)",
    ]


@pytorch_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    by_groups = "nn.GroupNorm(max(n for n in range(1, 9) if units % n == 0), units)"
    norm = {
        "batch": "(nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes](units)",
        "layer": "nn.GroupNorm(1, units) if axes else nn.LayerNorm(units)",
    }
    return [
        "# before the optimizer is made",
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        "    units = getattr(layer, 'out_features', None) or layer.out_channels",
        *(["    axes = len(getattr(layer, 'kernel_size', ()))  # of a convolution"] if edit.kind in norm else []),
        f"    norm = {norm.get(edit.kind, by_groups)}",
        "    setattr(model.get_submodule(parent), child, nn.Sequential(layer, norm))",
    ]


@pytorch_lines.register
def _(edit: e.AddDropout) -> list[str]:
    rate = f"{edit.rate:g}"
    return [f"# behind the activation of {', '.join(edit.layers)}:  nn.Dropout({rate})  (nn.AlphaDropout behind SELU)"]


@pytorch_lines.register
def _(edit: e.ResizeLayers) -> list[str]:
    wider = [f"#   {name}: {units} units" for name, units in zip(edit.layers, edit.units, strict=True)]
    follow = [f"#   {name}: {width} inputs" for name, width in zip(edit.followers, edit.inputs, strict=True)]
    return ["# where the layers are made:", *wider, *(["# and what follows them:"] if follow else []), *follow]


@pytorch_lines.register
def _(edit: e.AddResidual) -> list[str]:
    return [
        "class Residual(nn.Module):",
        "    def __init__(self, layer, activation):",
        "        super().__init__()",
        "        self.layer, self.activation, self.gate = layer, activation, nn.Parameter(torch.zeros(()))",
        "    def forward(self, x): return x + self.gate * self.activation(self.layer(x))",
        f"# before the optimizer is made, in place of {', '.join(edit.layers)} and the activation behind each:",
        "#   Residual(layer, activation)",
    ]


@pytorch_lines.register
def _(edit: e.ScaleOutputLayer) -> list[str]:
    if not edit.layers:
        return [f"# before the first step:  for p in output_layer.parameters(): p.data.mul_({edit.factor:g})"]
    return [
        _each(edit.layers),
        f"    for p in model.get_submodule(name).parameters(): p.data.mul_({edit.factor:g})",
    ]


@pytorch_lines.register
def _(edit: e.ClipAttention) -> list[str]:
    return [
        f"def scaled_cosine_attention(q, k, v, limit={edit.limit:g}, **options):",
        "    q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)",
        "    return nn.functional.scaled_dot_product_attention(q, k, v, scale=limit, **options)",
        f"# in {', '.join(edit.layers)}, for queries, keys and values that are split into heads",
    ]


@keras_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in the last layer:  {_activation(edit.to)}"]


@keras_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    initializer = f", kernel_initializer={e.initializer_for(edit.to)!r}" if edit.reinitialize else ""
    return [f"# in {', '.join(edit.layers)}:  {_activation(edit.to)}{initializer}"]


@keras_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [f"# in {', '.join(edit.layers)}:  kernel_initializer={edit.scheme!r}"]


@keras_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    layer = {"batch": "BatchNormalization()", "layer": "LayerNormalization()", "group": "GroupNormalization(8)"}
    return [f"# behind {', '.join(edit.layers)}, before their activation:  keras.layers.{layer[edit.kind]}"]


@keras_lines.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  keras.layers.Dropout({edit.rate:g})"]


@keras_lines.register
def _(edit: e.ResizeLayers) -> list[str]:
    return [f"# in {name}:  {units} units" for name, units in zip(edit.layers, edit.units, strict=True)]


@keras_lines.register
def _(edit: e.AddResidual) -> list[str]:
    return [
        "class Gate(keras.layers.Layer):",
        '    def build(self, shape): self.gate = self.add_weight(shape=(), initializer="zeros")',
        "    def call(self, x): return self.gate * x",
        f"# around each of {', '.join(edit.layers)}, activation included:",
        "#   x = keras.layers.Add()([x, Gate()(layer(x))])",
    ]


@keras_lines.register
def _(edit: e.ScaleOutputLayer) -> list[str]:
    scaled = f"set_weights([{edit.factor:g} * w for w in layer.get_weights()])"
    if not edit.layers:
        return [f"# before the first step:  layer = …; layer.{scaled}"]
    return [f"layer = {inner_layer(name)}; layer.{scaled}" for name in edit.layers]


@keras_lines.register
def _(edit: e.ClipAttention) -> list[str]:
    return [
        "class CosineAttention(keras.layers.MultiHeadAttention):",
        "    def _compute_attention(self, query, key, value, *args, **kwargs):",
        f"        query = {edit.limit:g} / self._inverse_sqrt_key_dim * keras.ops.normalize(query, axis=-1)",
        "        key = keras.ops.normalize(key, axis=-1)",
        "        return super()._compute_attention(query, key, value, *args, **kwargs)",
        f"# in place of keras.layers.MultiHeadAttention in {', '.join(edit.layers)}",
    ]

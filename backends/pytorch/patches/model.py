"""Lines of PyTorch code for edits of the model."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.adapter.patch_code import commented, literal
from autotrainer.backends.pytorch.patches.base import patch_lines

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


def _each(layers: Sequence[str]) -> str:
    return f"for name in {literal(tuple(layers))}:"


@patch_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# replaces the last activation, or follows the last layer:  {_MODULES[edit.to]}"]


@patch_lines.register
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


@patch_lines.register
def _(edit: e.AddActivation) -> list[str]:
    return [
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        f"    setattr(model.get_submodule(parent), child, nn.Sequential(layer, {_MODULES[edit.to]}))",
    ]


@patch_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [
        _each(edit.layers),
        "    for p in model.get_submodule(name).parameters(recurse=False):",
        f"        {_INITIALIZER_CALLS[edit.scheme].format('p')} if p.ndim > 1 else nn.init.zeros_(p)",
    ]


@patch_lines.register
def _(edit: e.ThawLayers) -> list[str]:
    if not edit.layers:
        return ["model.requires_grad_(True)"]
    return [
        _each(edit.layers),
        "    for p in model.get_submodule(name).parameters(recurse=False): p.requires_grad_(True)",
    ]


@patch_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    by_groups = "nn.GroupNorm(max(n for n in range(1, 9) if units % n == 0), units)"
    norm = {
        "batch": "(nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes](units)",
        "layer": "nn.GroupNorm(1, units) if axes else nn.LayerNorm(units)",
    }
    return [
        "# before the optimizer is created",
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        "    units = getattr(layer, 'out_features', None) or layer.out_channels",
        *(["    axes = len(getattr(layer, 'kernel_size', ()))  # of a convolution"] if edit.kind in norm else []),
        f"    norm = {norm.get(edit.kind, by_groups)}",
        "    setattr(model.get_submodule(parent), child, nn.Sequential(layer, norm))",
    ]


@patch_lines.register
def _(edit: e.AddDropout) -> list[str]:
    rate = f"{edit.rate:g}"
    return [f"# after the activation of {commented(edit.layers)}:  nn.Dropout({rate})  (nn.AlphaDropout after SELU)"]


@patch_lines.register
def _(edit: e.LimitDropout) -> list[str]:
    return [
        _each(edit.layers) if edit.layers else "for name, _ in model.named_modules():",
        "    layer = model.get_submodule(name)",
        "    for rate in ('p', 'drop_prob', 'dropout'):  # as dropout, stochastic depth and recurrent layers name it",
        "        if isinstance(getattr(layer, rate, None), float):",
        f"            setattr(layer, rate, min(getattr(layer, rate), {edit.rate:g}))",
    ]


@patch_lines.register
def _(edit: e.DropPenalties) -> list[str]:
    where = commented(edit.layers) if edit.layers else "all layers"
    return [f"# in the loss:  no penalties of the weights of {where}"]


@patch_lines.register
def _(edit: e.ResizeLayers) -> list[str]:
    wider = [f"#   {commented([name])}: {units} units" for name, units in zip(edit.layers, edit.units, strict=True)]
    follow = [
        f"#   {commented([name])}: {width} inputs" for name, width in zip(edit.followers, edit.inputs, strict=True)
    ]
    return [
        "# where the layers are defined:",
        *wider,
        *(["# and the layers that follow them:"] if follow else []),
        *follow,
    ]


@patch_lines.register
def _(edit: e.ResizeOutputLayer) -> list[str]:
    name = f" ({commented(edit.layers)})" if edit.layers else ""
    follow = [
        f"#   {commented([name])}: {width} inputs" for name, width in zip(edit.followers, edit.inputs, strict=True)
    ]
    return [
        f"# where the output layer{name} is defined:  {edit.units} {'unit' if edit.units == 1 else 'units'}",
        *(["# and the layers that follow it:"] if follow else []),
        *follow,
    ]


@patch_lines.register
def _(edit: e.RestoreAxes) -> list[str]:
    return [f"# in place of the reshape (view) to (n, {edit.classes}, {edit.positions}, …):  z.movedim(-1, 1)"]


@patch_lines.register
def _(edit: e.AddResidual) -> list[str]:
    return [
        "class Residual(nn.Module):",
        "    def __init__(self, layer, activation):",
        "        super().__init__()",
        "        self.layer, self.activation, self.gate = layer, activation, nn.Parameter(torch.zeros(()))",
        "    def forward(self, x): return x + self.gate * self.activation(self.layer(x))",
        f"# before the optimizer is created, replace {commented(edit.layers)} and the activation after each by:",
        "#   Residual(layer, activation)",
    ]


@patch_lines.register
def _(edit: e.ScaleOutputLayer) -> list[str]:
    if not edit.layers:
        return [f"# before the first step:  for p in output_layer.parameters(): p.data.mul_({edit.factor:g})"]
    return [
        _each(edit.layers),
        f"    for p in model.get_submodule(name).parameters(): p.data.mul_({edit.factor:g})",
    ]


@patch_lines.register
def _(edit: e.ClipAttention) -> list[str]:
    return [
        f"def scaled_cosine_attention(q, k, v, limit={edit.limit:g}, **options):",
        "    q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)",
        "    return nn.functional.scaled_dot_product_attention(q, k, v, scale=limit, **options)",
        f"# in {commented(edit.layers)}, for queries, keys and values that are split into heads",
    ]

"""Edits that watch over a training, in words and lines."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.reporting.patches.base import inner_layer, keras_lines, names, pytorch_lines, words


@words.register
def _(edit: e.SkipUpdates) -> str:
    return (
        "no step along a gradient that is not finite, or whose norm is more than "
        f"{edit.deviations:g} standard deviations above the mean of the last {edit.window}"
    )


@words.register
def _(edit: e.Rollback) -> str:
    text = f"back to the best epoch where the training loss is not finite or {edit.limit:g} times its best"
    return text + (f", learning rate × {edit.shrink:g} from there" if edit.shrink < 1 else "")


@words.register
def _(edit: e.ReviveUnits) -> str:
    return f"{names(edit.layers)}: idle units drawn anew between epochs (mean output at most {edit.threshold:g} of all)"


@words.register
def _(edit: e.ResetOptimizerState) -> str:
    often = {0: "at the start", 1: "at the start of each epoch"}
    return f"optimizer state cleared {often.get(edit.every, f'at the start of every {edit.every} epochs')}"


@words.register
def _(edit: e.RestoreZeroGrad) -> str:
    return "gradients reset after each step"


@words.register
def _(edit: e.SetMode) -> str:
    return "training mode in steps, evaluation mode in evaluations"


@words.register
def _(edit: e.RaisePrecision) -> str:
    return "single precision (float32) throughout"


@pytorch_lines.register
def _(edit: e.SkipUpdates) -> list[str]:
    return [
        "norms, kept = [], {name: buffer.clone() for name, buffer in model.named_buffers()}",
        "def usual():  # right behind loss.backward():  if usual(): optimizer.step()",
        "    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), float('inf')))",
        f"    last = torch.tensor(norms[-{edit.window}:])",
        f"    known = len(last) >= {(edit.window + 1) // 2}",
        f"    fine = norm < float('inf') and not (known and norm > last.mean() + {edit.deviations:g} * last.std())",
        "    norms.extend([norm] if norm < float('inf') else [])",
        "    for name, buffer in model.named_buffers():  # running statistics",
        "        if fine: kept[name] = buffer.clone()",
        "        elif not buffer.isfinite().all(): buffer.copy_(kept[name])",
        "    return fine",
    ]


@pytorch_lines.register
def _(edit: e.Rollback) -> list[str]:
    return [
        "def state(): return copy.deepcopy((model.state_dict(), optimizer.state_dict()))",
        "best = {'loss': None, 'first': None, 'state': state()}",
        "def go_back():  # behind loss.backward():  if not loss.isfinite(): go_back(); continue",
        f"    rates = [group['lr'] * {edit.shrink:g} for group in optimizer.param_groups]",
        "    weights, settings = copy.deepcopy(best['state'])",
        "    model.load_state_dict(weights); optimizer.load_state_dict(settings)",
        "    for group, rate in zip(optimizer.param_groups, rates): group['lr'] = rate",
        "def look(loss):  # after each epoch, with its mean training loss",
        "    if best['loss'] is None and math.isfinite(loss): best.update(loss=loss, first=loss)",
        "    if not math.isfinite(loss): return go_back()",
        f"    room = max({edit.limit - 1:g} * abs(best['loss']), 0.1 * (best['first'] - best['loss']))",
        "    if loss - best['loss'] > room: go_back()",
        "    elif loss <= best['loss']: best.update(loss=loss, state=state())",
    ]


@pytorch_lines.register
def _(edit: e.ReviveUnits) -> list[str]:
    return [
        f"hidden = [model.get_submodule(name) for name in {list(edit.layers)}]",
        "# between epochs, for each of them, with `a` = its activations on a batch, one column a unit:",
        f"#   size = a.abs().mean(0); idle = size <= {edit.threshold:g} * size.mean()",
        "#   fresh = torch.empty_like(layer.weight); torch.nn.init.kaiming_uniform_(fresh, nonlinearity='relu')",
        "#   with torch.no_grad(): layer.weight[idle] = fresh[idle]; layer.bias[idle] = 0",
    ]


@pytorch_lines.register
def _(edit: e.ResetOptimizerState) -> list[str]:
    again = f"  # and before every {edit.every} epochs" if edit.every > 1 else "  # and before each epoch"
    return ["optimizer.state.clear()" + (again if edit.every else "")]


@pytorch_lines.register
def _(edit: e.RestoreZeroGrad) -> list[str]:
    return ["optimizer.zero_grad()  # once before each loss.backward()"]


@pytorch_lines.register
def _(edit: e.SetMode) -> list[str]:
    return ["model.train()  # before each epoch of training; model.eval() before each evaluation"]


@pytorch_lines.register
def _(edit: e.RaisePrecision) -> list[str]:
    return ["model.float()  # with inputs and targets in float32, and without torch.autocast"]


@keras_lines.register
def _(edit: e.SkipUpdates) -> list[str]:
    return [
        f"# no step where the norm of the gradients is not finite or above mean + {edit.deviations:g} × standard "
        f"deviation of the last {edit.window}:",
        "# override `apply(grads, trainable_variables)` of the optimizer, or clip: global_clipnorm",
    ]


@keras_lines.register
def _(edit: e.Rollback) -> list[str]:
    return [
        "class Rollback(keras.callbacks.Callback):",
        "    best = first = None",
        "    def variables(self): return [*self.model.weights, *self.model.optimizer.variables]",
        "    def keep(self): self.kept = [np.array(keras.ops.convert_to_numpy(v)) for v in self.variables()]",
        "    def on_train_begin(self, logs=None):",
        "        self.model.optimizer.build(self.model.trainable_variables)",
        "        self.keep()",
        "    def on_epoch_end(self, epoch, logs=None):",
        "        loss = logs['loss']",
        "        if self.best is None and np.isfinite(loss): self.best = self.first = loss",
        f"        if np.isfinite(loss) and loss - self.best <= max({edit.limit - 1:g} * abs(self.best), "
        "0.1 * (self.first - self.best)):",
        "            if loss <= self.best: self.best = loss; self.keep()",
        "            return",
        f"        rate = float(self.model.optimizer.learning_rate) * {edit.shrink:g}",
        "        for variable, value in zip(self.variables(), self.kept): variable.assign(value)",
        "        self.model.optimizer.learning_rate = rate",
        "# model.fit(..., callbacks=[Rollback()])",
    ]


@keras_lines.register
def _(edit: e.ReviveUnits) -> list[str]:
    return [
        f"hidden = [{', '.join(map(inner_layer, edit.layers))}]",
        "# between epochs, for each of them, with `a` = its activations on a batch, one column a unit:",
        f"#   size = abs(a).mean(0); idle = size <= {edit.threshold:g} * size.mean()",
        "#   kernel, bias = layer.get_weights(); fresh = keras.initializers.HeUniform()(kernel.shape)",
        "#   kernel[..., idle] = np.asarray(fresh)[..., idle]; bias[idle] = 0; layer.set_weights([kernel, bias])",
    ]


@keras_lines.register
def _(edit: e.ResetOptimizerState) -> list[str]:
    again = f"  # and before every {edit.every} epochs" if edit.every > 1 else "  # and before each epoch"
    made = "model.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())"
    return [made + (again if edit.every else "")]


@keras_lines.register
def _(edit: e.RestoreZeroGrad) -> list[str]:
    return ["# Keras resets gradients by itself: with a train_step of your own, compute them anew in each call"]


@keras_lines.register
def _(edit: e.SetMode) -> list[str]:
    return ["# a `call` of your own takes `training` and hands it on to its layers"]


@keras_lines.register
def _(edit: e.RaisePrecision) -> list[str]:
    return ["keras.config.set_dtype_policy('float32')  # before the model is built, then compile it anew"]

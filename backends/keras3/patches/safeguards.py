"""Lines of Keras code for edits that protect a training while it runs."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.backends.keras3.patches.base import layer_expression, patch_lines


@patch_lines.register
def _(edit: e.SkipUpdates) -> list[str]:
    return [
        f"# no step where the norm of the gradients is not finite or above mean + {edit.deviations:g} × standard "
        f"deviation of the last {edit.window}:",
        "# override `apply(grads, trainable_variables)` of the optimizer, or clip: global_clipnorm",
    ]


@patch_lines.register
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


@patch_lines.register
def _(edit: e.ReviveUnits) -> list[str]:
    return [
        f"hidden = [{', '.join(map(layer_expression, edit.layers))}]",
        "# between epochs, for each of them, with `a` = its activations on a batch, one column per unit:",
        f"#   size = abs(a).mean(0); idle = size <= {edit.threshold:g} * size.mean()",
        "#   kernel, bias = layer.get_weights(); fresh = keras.initializers.HeUniform()(kernel.shape)",
        "#   kernel[..., idle] = np.asarray(fresh)[..., idle]; bias[idle] = 0; layer.set_weights([kernel, bias])",
    ]


@patch_lines.register
def _(edit: e.ResetOptimizerState) -> list[str]:
    again = f"  # and before every {edit.every} epochs" if edit.every > 1 else "  # and before each epoch"
    made = "model.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())"
    return [made + (again if edit.every else "")]


@patch_lines.register
def _(edit: e.RestoreZeroGrad) -> list[str]:
    return ["# Keras resets gradients by itself: in a custom train_step, compute them anew in each call"]


@patch_lines.register
def _(edit: e.SetMode) -> list[str]:
    return ["# a custom `call` takes `training` and passes it to its layers"]


@patch_lines.register
def _(edit: e.RaisePrecision) -> list[str]:
    return ["keras.config.set_dtype_policy('float32')  # before the model is built; then compile it again"]

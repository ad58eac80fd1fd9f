"""Lines of PyTorch code for edits that protect a training while it runs."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import literal
from autotrainer.backends.pytorch.patches.base import patch_lines


@patch_lines.register
def _(edit: e.SkipUpdates) -> list[str]:
    return [
        "norms, kept = [], {name: buffer.clone() for name, buffer in model.named_buffers()}",
        "def should_step():  # after loss.backward():  if should_step(): optimizer.step()",
        "    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), float('inf')))",
        f"    last = torch.tensor(norms[-{edit.window}:])",
        f"    enough = len(last) >= {(edit.window + 1) // 2}",
        f"    good = norm < float('inf') and not (enough and norm > last.mean() + {edit.deviations:g} * last.std())",
        "    norms.extend([norm] if norm < float('inf') else [])",
        "    for name, buffer in model.named_buffers():  # running statistics",
        "        if good: kept[name] = buffer.clone()",
        "        elif not buffer.isfinite().all(): buffer.copy_(kept[name])",
        "    return good",
    ]


@patch_lines.register
def _(edit: e.Rollback) -> list[str]:
    return [
        "def state(): return copy.deepcopy((model.state_dict(), optimizer.state_dict()))",
        "best = {'loss': None, 'first': None, 'state': state()}",
        "def restore_best():  # after loss.backward():  if not loss.isfinite(): restore_best(); continue",
        f"    rates = [group['lr'] * {edit.shrink:g} for group in optimizer.param_groups]",
        "    weights, settings = copy.deepcopy(best['state'])",
        "    model.load_state_dict(weights); optimizer.load_state_dict(settings)",
        "    for group, rate in zip(optimizer.param_groups, rates): group['lr'] = rate",
        "def check_epoch(loss):  # after each epoch, with its mean training loss",
        "    if best['loss'] is None and math.isfinite(loss): best.update(loss=loss, first=loss)",
        "    if not math.isfinite(loss): return restore_best()",
        f"    room = max({edit.limit - 1:g} * abs(best['loss']), 0.1 * (best['first'] - best['loss']))",
        "    if loss - best['loss'] > room: restore_best()",
        "    elif loss <= best['loss']: best.update(loss=loss, state=state())",
    ]


@patch_lines.register
def _(edit: e.ReviveUnits) -> list[str]:
    return [
        f"hidden = [model.get_submodule(name) for name in {literal(list(edit.layers))}]",
        "# between epochs, for each of them, with `a` = its activations on a batch, one column per unit:",
        f"#   size = a.abs().mean(0); idle = size <= {edit.threshold:g} * size.mean()",
        "#   fresh = torch.empty_like(layer.weight); torch.nn.init.kaiming_uniform_(fresh, nonlinearity='relu')",
        "#   with torch.no_grad(): layer.weight[idle] = fresh[idle]; layer.bias[idle] = 0",
    ]


@patch_lines.register
def _(edit: e.ResetOptimizerState) -> list[str]:
    again = f"  # and before every {edit.every} epochs" if edit.every > 1 else "  # and before each epoch"
    return ["optimizer.state.clear()" + (again if edit.every else "")]


@patch_lines.register
def _(edit: e.RestoreZeroGrad) -> list[str]:
    return ["optimizer.zero_grad()  # before each loss.backward()"]


@patch_lines.register
def _(edit: e.SetMode) -> list[str]:
    return ["model.train()  # before each epoch of training; model.eval() before each evaluation"]


@patch_lines.register
def _(edit: e.RaisePrecision) -> list[str]:
    return ["model.float()  # with inputs and targets in float32, and without torch.autocast"]

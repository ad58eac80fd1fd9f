"""Faults of transformers, by the component that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.generator.recipes import Row, pick
from benchmarks.generator.transformers.recipes import KINDS

__all__ = ["COMPONENTS", "FAULTS", "TransformerFault", "change"]

ENCODERS, DECODERS, TUNED, SCRATCH = (
    tuple(kind for kind in KINDS if part in kind) for part in ("encoder", "decoder", "tuned", "scratch")
)

_ANY = (("plain", "separate"), ("fused", "separate"))
_PLAIN = (("plain", "separate"), ("plain", "joint"))
_WRITTEN = (*_ANY, ("plain", "joint"), ("fused", "joint"))


class TransformerFault(NamedTuple):
    """One kind of fault at one strength.

    Attributes:
        component: Where it is, one of `COMPONENTS`.
        description: A key of `benchmarks.cases.problems.FAULT_PROBLEMS`.
        wrong: Options of the network or loop that are faulty; ``@`` at the end of a name: of one block or of all.
        edits: Changes of the weights at the start; ``{block}`` stands for one block or all.
        frozen: Parts that are not trained.
        optimizer: Settings of the optimizer that are replaced; ``lr_factor`` multiplies its rate.
        layer: Other settings of the network that are replaced.
        kinds: Kinds of trainings in which it shows.
        needs: Settings of the working training that it needs (`recipes.working`).
        styles: Kinds of attention and projections in which it can exist; empty for all.
        frameworks: Frameworks in which it can exist.
    """

    component: str
    description: str
    wrong: Mapping[str, Any] = {}
    edits: tuple[Mapping[str, Any], ...] = ()
    frozen: tuple[str, ...] = ()
    optimizer: Mapping[str, Any] = {}
    layer: Mapping[str, Any] = {}
    kinds: tuple[str, ...] = KINDS
    needs: Mapping[str, Any] = {}
    styles: tuple[tuple[str, str], ...] = ()
    frameworks: tuple[str, ...] = ("pytorch", "keras3")


def _edit(names: str | tuple[str, ...], kind: str, value: float = 0) -> tuple[Mapping[str, Any], ...]:
    return ({"names": (names,) if isinstance(names, str) else names, "change": kind, "value": value},)


def _projections() -> dict[str, TransformerFault]:
    """Return faults of the four projections of attention: zero to the end, redrawn, and scaled."""
    faults = {}
    for part in ("query", "key", "value", "output"):
        path, words = f"blocks.{{block}}.attention.{part}", f"{part} projection"
        styles = _WRITTEN if part == "output" else _ANY
        faults[f"{part}_zero"] = TransformerFault(
            "attention", f"{words} zero", edits=_edit(path, "scale", 0), frozen=(path,), styles=styles
        )
        if part != "value":
            faults[f"{part}_redrawn"] = TransformerFault(
                "attention",
                f"{words} not trained",
                edits=_edit(path, "draw", 0.3),
                frozen=(path,),
                kinds=("decoder_tuned",) if part in ("query", "key") else TUNED,
                styles=styles,
            )
        for name, factor in (("small", 0.001), ("x25", 25), ("x100", 100)):
            if (part, name) == ("key", "small"):
                continue  # costs nothing, as that of a redrawn value
            faults[f"{part}_{name}"] = TransformerFault(
                "attention",
                f"{words} scaled",
                edits=_edit(f"{path}.weight", "scale", factor),
                kinds=TUNED,
                needs={"norm": "pre"},
            )
    return faults


FAULTS: Mapping[str, TransformerFault] = {
    **_projections(),
    "scale_missing": TransformerFault(
        "attention", "attention scale", {"scale": "missing"}, styles=_WRITTEN, kinds=TUNED, needs={"norm": "pre"}
    ),
    "dead_head": TransformerFault(
        "attention", "attention head dead", {"dead_heads": 1}, styles=_WRITTEN, kinds=TUNED, needs={"norm": "pre"}
    ),
    "softmax_axis": TransformerFault("attention", "attention over queries", {"softmax_axis": -2}, styles=_PLAIN),
    "attention_dropout": TransformerFault(
        "attention", "dropout in evaluation", {"attention_dropout": 0.5}, styles=_WRITTEN
    ),
    "causal_missing": TransformerFault("mask", "attention mask", {"causal_mask": "missing"}, kinds=DECODERS),
    "causal_inverted": TransformerFault("mask", "attention mask", {"causal_mask": "inverted"}, kinds=DECODERS),
    "causal_off_by_one": TransformerFault("mask", "attention mask", {"causal_mask": "off_by_one"}, kinds=DECODERS),
    "padding_inverted": TransformerFault("mask", "attention mask", {"padding_mask": "inverted"}),
    "positions_missing": TransformerFault("positions", "positions unused", {"positions": "missing"}),
    "positions_constant": TransformerFault("positions", "positions unused", {"positions": "constant"}),
    "positions_shuffled": TransformerFault(
        "positions", "positions of another model", edits=_edit("positions", "shuffle"), kinds=TUNED
    ),
    "positions_redrawn": TransformerFault(
        "positions", "positions of another model", edits=_edit("positions", "draw", 0.08), kinds=TUNED
    ),
    "positions_frozen": TransformerFault(
        "positions", "positions not trained", {"positions": "detached"}, edits=_edit("positions", "draw", 0.002)
    ),
    "positions_x10": TransformerFault("positions", "positions scaled", edits=_edit("positions", "scale", 10)),
    "embedding_redrawn": TransformerFault(
        "embedding", "embedding of another model", edits=_edit("tokens", "draw", 0.08), kinds=TUNED
    ),
    "embedding_shuffled": TransformerFault(
        "embedding", "embedding of another model", edits=_edit("tokens", "shuffle"), kinds=TUNED
    ),
    "embedding_redrawn_frozen": TransformerFault(
        "embedding", "embedding not trained", edits=_edit("tokens", "draw", 0.08), frozen=("tokens",), kinds=TUNED
    ),
    "embedding_small": TransformerFault("embedding", "embedding scaled", {"embedding_factor": 0.02}),
    "embedding_x10": TransformerFault("embedding", "embedding scaled", {"embedding_factor": 10}),
    "embedding_untied": TransformerFault(
        "embedding",
        "weights no longer tied",
        layer={"tied": False},
        edits=_edit("head", "draw", 0.5),
        kinds=("decoder_tuned",),
    ),
    "embedding_rows_zero": TransformerFault(
        "embedding",
        "embedding rows unused",
        edits=({"names": ("tokens",), "change": "zero_rows", "value": 0.5},),
        frozen=("tokens",),
    ),
    "norm_missing": TransformerFault("normalization", "norm missing", {"norm@": "missing"}),
    "norm_eps": TransformerFault("normalization", "norm without effect", {"norm@": "eps"}),
    "norm_over_time": TransformerFault("normalization", "norm over the wrong axis", {"norm@": "over_time"}),
    "norm_over_batch": TransformerFault("normalization", "norm over the wrong axis", {"norm@": "over_batch"}),
    "norm_scale_zero": TransformerFault(
        "normalization",
        "norm scale",
        edits=_edit("blocks.{block}.norm1.weight", "scale", 0),
        frozen=("blocks.{block}.norm1",),
    ),
    "norm_scale_x5": TransformerFault(
        "normalization",
        "norm scale",
        edits=_edit(("blocks.{block}.norm1.weight", "blocks.{block}.norm2.weight"), "scale", 5),
        needs={"norm": "pre"},
    ),
    "norm_bias_5": TransformerFault(
        "normalization",
        "norm scale",
        edits=_edit(("blocks.{block}.norm1.bias", "blocks.{block}.norm2.bias"), "add", 5),
        needs={"norm": "pre"},
    ),
    "final_norm_scale_x25": TransformerFault("normalization", "norm scale", edits=_edit("norm.weight", "scale", 25)),
    "shortcut_missing": TransformerFault("residual", "shortcut", {"shortcut@": 0.0}),
    "shortcut_small": TransformerFault("residual", "shortcut", {"shortcut@": 0.1}),
    "shortcut_doubled": TransformerFault("residual", "shortcut", {"shortcut@": 2.0}),
    "expand_zero": TransformerFault(
        "feed_forward",
        "feed-forward zero",
        edits=_edit("blocks.*.feed_forward.expand", "scale", 0),
        frozen=("blocks.*.feed_forward.expand",),
    ),
    "contract_zero": TransformerFault(
        "feed_forward",
        "feed-forward zero",
        edits=_edit("blocks.{block}.feed_forward.contract", "scale", 0),
        frozen=("blocks.{block}.feed_forward.contract",),
    ),
    "expand_x25": TransformerFault(
        "feed_forward",
        "feed-forward scaled",
        edits=_edit("blocks.{block}.feed_forward.expand.weight", "scale", 25),
        needs={"norm": "pre"},
    ),
    "contract_x100": TransformerFault(
        "feed_forward",
        "feed-forward scaled",
        edits=_edit("blocks.{block}.feed_forward.contract.weight", "scale", 100),
        needs={"norm": "pre"},
    ),
    "contract_x25": TransformerFault(
        "feed_forward",
        "feed-forward scaled",
        edits=_edit("blocks.{block}.feed_forward.contract.weight", "scale", 25),
        needs={"norm": "pre"},
    ),
    "contract_small": TransformerFault(
        "feed_forward",
        "feed-forward scaled",
        edits=_edit("blocks.{block}.feed_forward.contract.weight", "scale", 0.001),
        kinds=TUNED,
        needs={"norm": "pre"},
    ),
    "feed_forward_redrawn": TransformerFault(
        "feed_forward",
        "feed-forward not trained",
        edits=_edit("blocks.{block}.feed_forward", "draw", 0.3),
        frozen=("blocks.{block}.feed_forward",),
        kinds=TUNED,
    ),
    "no_activation": TransformerFault("feed_forward", "feed-forward without activation", {"no_activation@": True}),
    "expand_bias": TransformerFault(
        "feed_forward", "feed-forward bias", edits=_edit("blocks.{block}.feed_forward.expand.bias", "add", -10)
    ),
    "contract_bias": TransformerFault(
        "feed_forward",
        "feed-forward bias",
        edits=_edit("blocks.{block}.feed_forward.contract.bias", "add", 10),
        needs={"norm": "pre"},
    ),
    "head_zero": TransformerFault(
        "head", "head zero", edits=_edit("head", "scale", 0), frozen=("head",), kinds=ENCODERS
    ),
    "pool_last": TransformerFault("head", "wrong token read", {"pool": "last"}, kinds=ENCODERS),
    "not_loaded": TransformerFault("loop", "checkpoint not loaded", {"not_loaded": True}, kinds=TUNED),
    "rate_x30": TransformerFault("loop", "lr too high", optimizer={"lr_factor": 30}),
    "rate_x100": TransformerFault("loop", "lr too high", optimizer={"lr_factor": 100}),
    "rate_thousandth": TransformerFault("loop", "lr too low", optimizer={"lr_factor": 0.001}),
    "rate_hundredth": TransformerFault("loop", "lr too low", optimizer={"lr_factor": 0.01}),
    "accumulation_summed": TransformerFault(
        "loop",
        "accumulation not scaled",
        {"accumulation": "summed"},
        kinds=TUNED,
        needs={"optimizer": "sgd", "accumulate": 8},
        frameworks=("pytorch",),
    ),
    "scheduler_10": TransformerFault(
        "loop", "schedule stepped several times", {"scheduler_steps": 10}, needs={"schedule": "linear"}
    ),
    "decay_all": TransformerFault("loop", "weight decay too strong", {"decay": "all"}, optimizer={"weight_decay": 30}),
    "clipped": TransformerFault(
        "loop", "gradient clipping far too small", optimizer={"clip_norm": 1e-3}, needs={"optimizer": "sgd"}
    ),
    "last_frozen": TransformerFault(
        "loop", "parameters frozen", frozen=("blocks.1", "blocks.2", "norm", "head"), kinds=("encoder_tuned",)
    ),
    "body_frozen": TransformerFault(
        "loop",
        "parameters frozen",
        frozen=("tokens", "positions", "blocks"),
        kinds=("decoder_scratch", "encoder_scratch"),
    ),
    "not_shifted": TransformerFault("loop", "labels not shifted", {"targets": "not_shifted"}, kinds=DECODERS),
}
"""Faults by name. Whether one costs score is decided by the scores, as for all cases (`verify`)."""

COMPONENTS = tuple(dict.fromkeys(fault.component for fault in FAULTS.values()))
"""Components in which faults are."""


def change(fault: TransformerFault, row: Row, draw: np.random.Generator) -> Row:
    """Return what a fault changes in a working training."""
    (layer,), optimizer = row["layers"], dict(row["optimizer"])
    block = str(pick(draw, "*", "*", *range(int(layer["blocks"]))))
    wrong = {}
    for name, value in fault.wrong.items():
        one = name.endswith("@") and block != "*"
        wrong[f"{name}{block}" if one else name.removesuffix("@")] = value
    edits = [{**edit, "names": [name.format(block=block) for name in edit["names"]]} for edit in fault.edits]
    parts = {
        "wrong": wrong,
        "edits": edits,
        "frozen": [name.format(block=block) for name in fault.frozen],
    }
    changed = {**layer, **fault.layer, **{name: value for name, value in parts.items() if value}}
    settings = dict(fault.optimizer)
    optimizer["lr"] *= settings.pop("lr_factor", 1)
    if "weight_decay" in settings:
        optimizer["name"] = "adamw"
    return {"layers": [changed], "optimizer": {**optimizer, **settings}}

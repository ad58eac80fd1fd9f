"""All families by name; a third and more are reserved for figures on families that nothing was calibrated on."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.generator.families import networks, sequences, tables
from benchmarks.generator.families.family import Family
from benchmarks.generator.families.networks import COMPOSITE_FAULTS

__all__ = ["FAMILIES", "OPEN", "RESERVED", "RESERVED_SEEDS"]

RESERVED_SEEDS = 100
"""Cases of this seed and above are never used for calibration, whatever their family."""

FAMILIES: Mapping[str, Family] = {
    "gates": Family(tables.gates, ("mlp", "perceptron", "logits", "square", "two_units")),
    "handful": Family(tables.handful, ("line", "groups")),
    "labels": Family(tables.labels, ("mlp", "norm", "cnn")),
    "codes": Family(tables.codes, ("bce", "mse", "mae", "wide", "bytes", "logits")),
    "tags": Family(sequences.tags, ("gru", "lstm", "onehot", "flat", "transformer", "regimes")),
    "values": Family(tables.values, ("one", "three", "dozen", "scaled")),
    "encodings": Family(tables.encodings, ("bits", "signed", "square", "onehot", "from_one", "two_units")),
    "bags": Family(sequences.bags, ("counts", "mean", "flat")),
    "series": Family(sequences.series, ("mlp", "lstm", "cnn1d", "gru")),
    "residual": Family(tables.residual, ("batchnorm", "plain", "layernorm")),
    "grammar": Family(sequences.grammar, ("gru", "transformer", "lstm")),
    "branches": Family(networks.branches, ("two",), True, (*COMPOSITE_FAULTS, "lopsided_losses")),
    "counts": Family(tables.counts, ("mlp",), True),
    "customers": Family(tables.customers, ("mlp", "norm", "logits"), True),
    "denoising": Family(networks.denoising, ("linear", "sigmoid"), True),
    "gan": Family(networks.gan, ("ring",), True, COMPOSITE_FAULTS),
    "pairs": Family(networks.pairs, ("contrastive",), True, (*COMPOSITE_FAULTS, "shuffled_labels")),
    "rankings": Family(networks.rankings, ("margin", "logistic"), True, (*COMPOSITE_FAULTS, "shuffled_labels")),
    "reversal": Family(sequences.reversal, ("transformer", "gru"), True),
    "segments": Family(networks.segments, ("two",), True),
    "vae": Family(networks.vae, ("sigmoid", "linear"), True, (*COMPOSITE_FAULTS, "strong_divergence")),
    "verdicts": Family(sequences.verdicts, ("lstm", "transformer"), True),
}
"""Families by name."""

OPEN = tuple(name for name, family in FAMILIES.items() if not family.reserved)
RESERVED = tuple(name for name, family in FAMILIES.items() if family.reserved)

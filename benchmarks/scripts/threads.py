"""Programs rebuilt from questions and issues whose cause is known, in ``programs/threads``: where, and the cause.

Each watches its own training with one line, reports a held-out ``score``, and is run with ``fixed`` or ``faulty``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["FAST", "SLOW", "THREADS", "Thread"]

SLOW = ("learning_rate_too_low", "slow_convergence", "not_learning", "too_few_epochs")
"""What names a learning rate that is far too low."""
FAST = ("learning_rate_too_high", "divergence", "exploding_gradient", "nonfinite", "oscillating_loss")
"""What names a learning rate that is far too high."""


@dataclass(frozen=True, slots=True)
class Thread:
    """Where a program comes from.

    Attributes:
        source: Site and number, or address.
        fault: What was wrong, as the answer says.
        causes: Problems that name it.
    """

    source: str
    fault: str
    causes: Sequence[str]


_MISALIGNED = ("shuffled_labels", "unlearnable_targets", "target_mismatch")

THREADS: Mapping[str, Thread] = {
    "bn_momentum": Thread(
        "techqa.club 74946623",
        "momentum of batch normalization far too small",
        ("validation_mismatch", "wrong_training_mode"),
    ),
    "box_cnn": Thread("Stats.SE 261704", "rate too high for a deep ReLU network", (*FAST, "dying_relu")),
    "bpr_sum": Thread(
        "discuss.pytorch.org 111510",
        "sigmoid of a sum over all rows",
        ("improper_loss", "vanishing_gradient", "exploding_gradient", "divergence"),
    ),
    "causal_mask": Thread("lynx-cortex.pages.dev, phase 17", "attention without a causal mask", ("data_leakage",)),
    "char_rnn_rate": Thread("jvns.ca 2020-11-23", "rate too high", FAST),
    "chars_misaligned": Thread("GitHub d2l-ai/d2l-en#1552", "inputs transposed, labels not", _MISALIGNED),
    "cosine_scale": Thread(
        "GitHub ExplainableML/czsl#30", "cosines as logits, without a scale", ("improper_output_activation",)
    ),
    "critic_labels_ones": Thread(
        "GitHub SerezD/vqvae-vqgan-pytorch-lightning#3",
        "real and fake samples have the same label",
        ("target_mismatch", "class_imbalance", "unlearnable_targets", "improper_loss"),
    ),
    "distill_detached": Thread(
        "GitHub bboylyg/NAD#8",
        "a term of the loss is detached",
        ("parameters_not_optimized", "no_gradient"),
    ),
    "gan_no_zero_grad": Thread(
        "GitHub Adversarial-Deep-Learning/code-soup#69", "discriminator without zero_grad", ("missing_zero_grad",)
    ),
    "gps_sqrt": Thread("blog.csdn.net 106576818", "root of zero", ("nonfinite",)),
    "hidden_view": Thread(
        "GitHub Stable-Baselines3-contrib#111", "reshaped over rows instead of transposed", _MISALIGNED
    ),
    "labels_not_shifted": Thread(
        "GitHub ayaka14732/bart-base-jax#6", "labels are the inputs", ("data_leakage", "target_mismatch")
    ),
    "layers_in_forward": Thread(
        "thecodeforge.io, pytorch-neural-network", "layers made in forward", ("parameters_not_optimized",)
    ),
    "long_padding": Thread(
        "GitHub bentrevett/pytorch-sentiment-analysis#86",
        "last state after a long padding",
        ("vanishing_gradient", "ignored_input", "insufficient_capacity"),
    ),
    "lstm_batch_first": Thread(
        "GitHub pytorch/pytorch#1538",
        "rows read as time steps",
        ("target_mismatch", "ignored_input", "insufficient_capacity"),
    ),
    "lstm_flat_line": Thread(
        "discuss.pytorch.org 98896", "rate too low, values not scaled", (*SLOW, "insufficient_capacity")
    ),
    "mask_255": Thread(
        "e-com-net.com 1645566202275258368",
        "masks of 0 and 255",
        ("target_mismatch", "improper_loss", "unscaled_targets"),
    ),
    "nll_no_log": Thread(
        "codestudyblog.com 80409021901", "nll_loss of raw outputs", ("improper_loss", "improper_output_activation")
    ),
    "one_feature_norm": Thread(
        "discuss.pytorch.org 184454",
        "layer normalization of one feature, raw numbers",
        ("abnormal_data", "unscaled_targets", "no_gradient", "vanishing_gradient", "insufficient_capacity"),
    ),
    "pad_column_nan": Thread(
        "GitHub pytorch/tutorials#663", "mean loss over no target", ("nonfinite", "nonfinite_data")
    ),
    "rare_events": Thread("discuss.pytorch.org 72150", "1 % of positive targets", ("class_imbalance",)),
    "reinforce_sign": Thread(
        "discuss.pytorch.org, policy gradients with baseline",
        "sign of the loss",
        ("divergence", "improper_loss"),
    ),
    "scheduler_or_step": Thread(
        "GitHub ClementPinard/SfmLearner-Pytorch#5", "the optimizer never steps", ("parameters_not_optimized",)
    ),
    "tagger_pad": Thread("GitHub aneesh-joshi/LSTM_POS_Tagger#8", "padding counts as a class", ("class_imbalance",)),
    "targets_long": Thread(
        "GitHub deepset-ai/FARM#395",
        "targets in [0, 1] cut to integers",
        ("target_mismatch", "unlearnable_targets", "unscaled_targets", "abnormal_data", "class_imbalance"),
    ),
    "triplet_margin": Thread(
        "GitHub xiaolonw/caffe-video_triplet#8", "rate too high", ("representation_collapse", *FAST)
    ),
    "vae_mean": Thread(
        "GitHub AppliedDataSciencePartners/WorldModels#12",
        "reconstruction averaged, divergence summed",
        ("representation_collapse",),
    ),
    "vq_rate": Thread("GitHub AntixK/PyTorch-VAE#51", "rate too high", FAST),
    "wrong_tensor": Thread(
        "GitHub oke-aditya/image_similarity#3",
        "loss between code and output",
        ("representation_collapse", "target_mismatch"),
    ),
}
"""Programs by name. The causes were written down before any of them had been run."""

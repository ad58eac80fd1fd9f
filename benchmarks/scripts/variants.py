"""The programs in ``programs/``, each healthy as it is, and faulty by a setting of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotrainer.errors import ConfigError, nearest
from benchmarks.scripts.threads import FAST, SLOW, THREADS

__all__ = ["FOLDER", "VARIANTS", "Variant", "select"]

FOLDER = Path(__file__).parent / "programs"

UNSCALED = ("abnormal_data", "unscaled_targets", "target_mismatch")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a program.

    Attributes:
        program: Name of the file, without its suffix.
        name: Name of the setting; ``healthy`` for the program as it is.
        arguments: Its arguments.
        environment: Environment variables that it reads.
        causes: Problems that name the fault; empty for a healthy program.
        trainings: Number of trainings in it.
        epochs: Number of epochs of the first of them that a reader of the program would count; None if that is
            ambiguous.
    """

    program: str
    name: str = "healthy"
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    causes: Sequence[str] = ()
    trainings: int = 1
    epochs: int | None = None

    @property
    def id(self) -> str:
        """Program and setting."""
        return f"{self.program}:{self.name}"

    @property
    def watched(self) -> bool:
        """Whether the program watches its own training, rather than being run by ``autotrainer run``."""
        return "/" in self.program


def _program(
    program: str,
    *faults: tuple[str, str, Sequence[str]],
    trainings: int = 1,
    epochs: int | None = None,
) -> list[Variant]:
    """Return the healthy variant and the faulty ones: name, setting (``--flag value`` or ``NAME=value``), causes."""
    variants = [Variant(program, trainings=trainings, epochs=epochs)]
    for name, setting, causes in faults:
        parts = setting.split()
        environment = dict(part.split("=", 1) for part in parts if "=" in part)
        arguments = tuple(part for part in parts if "=" not in part)
        variants.append(Variant(program, name, arguments, environment, causes, trainings, epochs))
    return variants


VARIANTS: tuple[Variant, ...] = tuple(
    variant
    for variants in (
        _program("digits_notebook", ("slow", "LR=1e-6", SLOW), ("fast", "LR=30", FAST), epochs=20),
        _program(
            "digits_argparse",
            ("slow", "--lr 1e-7", SLOW),
            ("deep", "--depth 10 --activation sigmoid", ("vanishing_gradient", "saturated_activation")),
            epochs=14,
        ),
        _program("wine_trainer", ("unscaled", "--no-scale", UNSCALED), ("fast", "--lr 50", FAST)),
        _program("moons_full_batch", ("slow", "1e-6", SLOW), epochs=1000),
        _program("xor", ("slow", "--lr 1e-4", (*SLOW, "vanishing_gradient")), epochs=3000),
        _program("sine_lbfgs", ("slow", "1e-6", SLOW), epochs=60),
        _program(
            "diabetes_slices",
            ("raw", "--raw-targets", (*UNSCALED, *FAST, "gradient_spike")),
            ("slow", "--lr 1e-7", SLOW),
            epochs=60,
        ),
        _program(
            "own_loss",
            ("zero", "--eps 0 --lr 1", (*FAST, "improper_loss")),
            ("unscaled", "--raw --lr 1", (*UNSCALED, *FAST, "dying_relu")),
            epochs=40,
        ),
        _program(
            "cnn_schedule",
            ("decay", "STEP_PER_BATCH=1 GAMMA=0.5", ("wrong_schedule", "learning_rate_too_low", "not_learning")),
            epochs=15,
        ),
        _program(
            "accumulate",
            ("keep", "--keep-grad", ("missing_zero_grad",)),
            ("slow", "--lr 1e-7", SLOW),
            epochs=12,
        ),
        _program("amp_bf16", ("fast", "--lr 10", FAST), epochs=12),
        _program("gan_ring", ("fast", "--lr 10", (*FAST, "saturated_activation")), epochs=20),
        _program("two_heads", ("slow", "--lr 1e-7", SLOW), epochs=60),
        _program("autoencoder", ("unscaled", "--scale 1", UNSCALED), ("slow", "--lr 1e-8", SLOW), epochs=30),
        _program("lstm_tagger", ("slow", "--lr 1e-7", SLOW), epochs=8),
        _program("transformer", ("fast", "--lr 3", FAST), ("slow", "--lr 1e-8", SLOW)),
        _program("siamese", ("slow", "--lr 1e-9", SLOW), epochs=15),
        _program(
            "multilabel",
            ("softmax", "--activation softmax", ("improper_output_activation",)),
            ("slow", "--lr 1e-8", SLOW),
            epochs=15,
        ),
        _program("two_optimizers", ("fast", "--backbone-lr 100 --head-lr 10", FAST), epochs=15),
        _program("two_models", ("slow", "STUDENT_LR=1e-8", SLOW), trainings=2, epochs=10),
        _program("finetune", ("slow", "--head-lr 1e-8", SLOW), epochs=33),
        _program(
            "friedman_functions",
            ("relu", "--output relu", ("improper_output_activation",)),
            ("fast", "--lr 10", (*FAST, "dying_relu")),
            epochs=25,
        ),
        _program(
            "two_files",
            ("shuffled", "--shuffle-rows", ("unlearnable_targets", "not_learning", "data_leakage")),
            epochs=15,
        ),
        _program("sparse_text", ("slow", "--lr 1e-9", SLOW), epochs=20),
        _program("ranking", ("slow", "--learning-rate 1e-9", SLOW)),
        _program("raw_tensors", trainings=0),
        _program(
            "config_trainer",
            ("softmax", "--double_softmax 1", ("improper_output_activation",)),
            ("slow", "--lr 1e-8", SLOW),
            epochs=25,
        ),
        _program(
            "cross_validation", ("slow", "LR=1e-7", SLOW), ("unscaled", "SCALE=0", UNSCALED), trainings=3, epochs=40
        ),
        _program("mixup_ema", ("slow", "--lr 1e-8", SLOW), ("fast", "--lr 30", FAST), epochs=15),
        _program("grid_search", ("slow", "1e-8,1e-7", SLOW), ("fast", "30,100", FAST), trainings=4),
        _program("resume_checkpoint", ("slow", "RATE=1e-8", SLOW), ("fast", "RATE=100", FAST), trainings=2, epochs=20),
        _program("transfer_guarded", ("slow", "HEAD_LR=1e-9", SLOW), trainings=2, epochs=10),
        _program("keras_callbacks", ("slow", "--lr 1e-9", SLOW), ("unscaled", "--no-scale", UNSCALED), epochs=20),
        _program("keras_two_outputs", ("slow", "LR=1e-9", SLOW), ("unscaled", "SCALE=1000", UNSCALED), epochs=25),
        _program("keras_vae_tape", ("slow", "--lr 1e-9", SLOW), ("fast", "--lr 30", FAST), epochs=15),
        _program(
            "keras_trainer_class",
            ("softmax", "SOFTMAX=1", ("improper_output_activation",)),
            ("slow", "LR=1e-9", SLOW),
            epochs=15,
        ),
        _program("keras_sequential", ("slow", "LR=1e-7", SLOW), ("fast", "LR=30", FAST), epochs=20),
        _program(
            "keras_functional",
            ("relu", "--output relu", ("improper_output_activation",)),
            ("slow", "--lr 1e-8", SLOW),
            epochs=25,
        ),
        _program(
            "keras_subclass",
            ("deep", "--depth 10 --activation sigmoid", ("vanishing_gradient", "saturated_activation")),
        ),
        _program("keras_train_step", ("slow", "1e-8", SLOW), epochs=25),
        _program("keras_tape", ("slow", "--lr 1e-9", SLOW), epochs=8),
        _program("keras_eager_tape", ("slow", "LR=1e-9", SLOW), epochs=15),
        _program("keras_autoencoder", ("unscaled", "--scale 1", UNSCALED), epochs=30),
        _program("keras_batches", ("slow", "RATE=1e-9", SLOW), epochs=12),
        _program("keras_sparse", ("slow", "--lr 1e-9", SLOW), epochs=12),
        _program("keras_lstm", ("slow", "--lr 1e-9", SLOW), epochs=8),
        *(
            (
                Variant(f"threads/{name}", arguments=("fixed",)),
                Variant(f"threads/{name}", "faulty", ("faulty",), causes=thread.causes),
            )
            for name, thread in THREADS.items()
        ),
    )
    for variant in variants
)


def select(names: Sequence[str] = (), frameworks: Sequence[str] = ("pytorch", "keras3")) -> list[Variant]:
    """Return the variants of these programs (``xor``) or settings (``xor:slow``); all for no name.

    Raises:
        ConfigError: If there is no such variant.
    """
    by_name: dict[str, list[Variant]] = {}
    for variant in VARIANTS:
        for key in (variant.program, variant.id):
            by_name.setdefault(key, []).append(variant)
    for name in names:
        if name not in by_name:
            raise ConfigError(f"there is no program {name!r}: {nearest(name, tuple(by_name))}")
    chosen = [variant for name in names for variant in by_name[name]] if names else list(VARIANTS)
    return [v for v in chosen if ("keras3" if v.program.startswith("keras") else "pytorch") in frameworks]

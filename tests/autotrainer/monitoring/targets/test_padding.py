from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotrainer.monitoring.targets.padding import padded_share, without_padding
from autotrainer.records.signals import Observation
from autotrainer.records.task import LossInfo, TaskContext

RNG = np.random.default_rng(0)
STEPS = 16
LENGTHS = RNG.integers(3, 8, 32)[:, None]
AT = np.arange(STEPS) >= LENGTHS
"""Where there is padding."""
TOKENS = np.where(AT, 0, RNG.integers(1, 30, AT.shape))
TAGS = (TOKENS % 5 == 1).astype(int)
VECTORS = np.where(AT[:, :, None], 0.0, RNG.normal(size=(32, STEPS, 3)))
LATE = np.where(AT, RNG.integers(1, 30, AT.shape), 0)
INNER = float((np.arange(STEPS) > LENGTHS).mean())


@pytest.mark.parametrize(
    ("labels", "inputs", "expected"),
    [
        pytest.param(TOKENS, None, INNER, id="targets alone"),
        pytest.param(TOKENS[:, 1:], TOKENS[:, :-1], None, id="next tokens"),
        pytest.param(TOKENS[:, 1:], TOKENS, None, id="next tokens, one less"),
        pytest.param(TAGS, TOKENS, INNER, id="the class of padding is one of the tokens"),
        pytest.param(TAGS, VECTORS, INNER, id="inputs are vectors"),
        pytest.param(TAGS[:, ::-1], TOKENS[:, ::-1], INNER, id="padding comes first"),
        pytest.param(TAGS.T, TOKENS.T, INNER, id="time comes first"),
        pytest.param(TOKENS, RNG.integers(1, 9, (32, 5)), INNER, id="inputs of another length"),
        pytest.param(TAGS, None, 0, id="two classes alone do not show it"),
        pytest.param(np.where(AT, -100, TAGS), TOKENS, 0, id="masked"),
        pytest.param(TAGS, RNG.integers(1, 30, AT.shape), 0, id="no padding in the inputs"),
        pytest.param(RNG.integers(0, 2, AT.shape), TOKENS, 0, id="targets of padding differ"),
        pytest.param(np.where(AT, 0, TOKENS % 12), None, 0, id="its class stands between tokens, too"),
        pytest.param(np.where(np.arange(STEPS) < 6, TOKENS % 28 + 1, 0), None, 0, id="a fixed layout"),
        pytest.param(TAGS[:3], TOKENS[:3], np.nan, id="few sequences"),
        pytest.param(LATE[:, 0], TOKENS, np.nan, id="one class a row"),
        pytest.param(TOKENS[:, None], None, np.nan, id="of pixels"),
    ],
)
def test_share_of_padding(labels: NDArray[Any], inputs: NDArray[Any] | None, expected: float | None) -> None:
    share = padded_share(labels, inputs)
    if expected is None:
        assert 0.5 < share < 0.75
    else:
        np.testing.assert_allclose(share, expected, atol=1e-12 if expected == INNER else 0)


@pytest.mark.parametrize(("masks", "kept"), [(True, LENGTHS.sum()), (False, AT.size)])
@pytest.mark.parametrize("flat", [True, False])
def test_accuracy_counts_what_a_custom_loss_counts(*, masks: bool, kept: int, flat: bool) -> None:
    logits = RNG.normal(size=(*AT.shape, 2)) + 6 * np.eye(2)[np.where(AT, 0, 1 - TAGS)]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, TAGS[:, :, None], 2)[..., 0]
    loss = float(losses[~AT].mean() if masks else losses.mean())
    targets, outputs = (TAGS.ravel(), logits.reshape(-1, 2)) if flat else (TAGS, logits)
    observation = Observation(
        0, np.zeros((0, 0)), loss, targets=targets, outputs=outputs, labels=TAGS, tokens=TOKENS, batch_size=32
    )
    counted = without_padding(observation, TaskContext()).targets
    assert counted is not None
    assert abs((counted != -100).sum() - kept) <= (32 if masks else 0)  # where a token before has its class
    known = TaskContext(loss=LossInfo("CrossEntropyLoss", "cross_entropy"))
    assert without_padding(observation, known) is observation

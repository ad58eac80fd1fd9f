"""Facts about the workers of a data loader."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from autotrainer.backends.pytorch.data.loader_workers import _differing, worker_facts


class Noise(Dataset[Any]):
    """Samples of a generator of its own, in the form asked for."""

    def __init__(self, form: str) -> None:
        self.form, self.generator = form, np.random.default_rng(0)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        if self.form == "keys" and not isinstance(index, str):
            raise KeyError(index)
        noise = torch.from_numpy(self.generator.normal(size=(32, 3) if self.form == "whole" else 3))
        forms = {"dict": {"x": noise, "name": str(index)}, "words": str(noise), "mixed": (noise, index)}
        return forms.get(self.form, noise)


class Keys(Sampler[Any]):
    def __iter__(self) -> Any:
        return iter("abcde")


ALIKE = {"workers_draw_alike": 1.0, "passes_draw_alike": 1.0}


@pytest.mark.parametrize(
    ("form", "options", "expected"),
    [
        ("plain", {"batch_size": 2}, ALIKE),
        ("dict", {"batch_size": 2}, ALIKE),
        ("mixed", {"batch_size": 2}, ALIKE),
        ("whole", {"batch_size": None}, ALIKE),
        ("words", {"batch_size": 2}, {}),
        ("keys", {"batch_size": 2, "sampler": Keys()}, {}),
    ],
)
def test_forms_of_samples(form: str, options: dict[str, Any], expected: dict[str, float]) -> None:
    assert worker_facts(DataLoader(Noise(form), num_workers=2, **options)) == expected


def test_other_data_have_no_worker_facts() -> None:
    assert worker_facts([(np.ones(3), np.ones(3))]) == {}
    assert worker_facts(DataLoader(Noise("plain"), 2)) == {}


def test_a_data_set_that_raises_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        assert worker_facts(DataLoader(Noise("keys"), 2, num_workers=1)) == {}
    assert "workers of the data loader" in caplog.text


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([[1.0, torch.nan], [2.0, 3.0]], 0),
        ([[1.0, torch.nan], [2.0, 4.0]], 1),
        ([[1.0, 5.0], [7.0, 3.0]], 2),
        ([[1.0, torch.nan]], None),
    ],
)
def test_samples_that_differ(other: Any, expected: int | None) -> None:
    one = [torch.tensor([[1.0, torch.nan], [2.0, 3.0]]), torch.tensor([0, 1])]
    assert _differing(one, [torch.tensor(other), torch.arange(len(other))]) == expected

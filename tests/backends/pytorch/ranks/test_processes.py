"""Trainings in several processes over gloo, watched as one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import Floats

pytestmark = pytest.mark.slow

Run = Callable[..., list[list[dict[str, Any]]]]


def array(values: Any) -> Floats:
    return np.array(values, np.float64)


@pytest.mark.parametrize(
    ("ranks", "kinds"),
    [
        (2, "ddp,fsdp2,meta"),
        (2, "tensor,tensor_sequence"),
        (4, "fsdp2,hsdp,fsdp1"),
        (4, "tensor_sequence"),
        (2, "fsdp1_flat,fsdp1"),
    ],
)
def test_statistics_are_those_of_the_whole_model(run_ranks: Run, ranks: int, kinds: str) -> None:
    first, *others = run_ranks(ranks, "norms", kinds)
    assert [each["how"] for each in first] == kinds.split(",")
    for result in first:
        spread, whole = result["tables"]
        assert result["steps"] == [0, 1, 2]
        assert array(result["totals"][0]) == pytest.approx(array(result["totals"][1]), rel=1e-4)
        if result["how"] == "fsdp1_flat":  # a row for each wrapped module
            continue
        for name, values in whole.items():
            one, other = (
                np.sort(array(each)) for each in (spread[name], values)
            )  # FSDP1 has its rows in another order
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=f"{result['how']} {name}")
    for rank in others:
        for result in rank:
            assert (result["steps"], result["findings"], result["log"]) == ([], {}, [])
            assert "rank 0 reports" in result["notes"][0]


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_no_collective_operation_is_added(run_ranks: Run, how: str) -> None:
    for rank, (result,) in enumerate(run_ranks(2, "collectives", how)):
        sampled, other = result["counts"]["sampled"], result["counts"]["other"]
        assert set(sampled) == set(other) == {other[0]}
        assert other[0] > 0
        assert bool(result["steps"]) == (rank == 0)


def test_training_is_the_same_to_the_bit(run_ranks: Run) -> None:
    for results in run_ranks(2, "identity", "ddp,fsdp2"):
        assert [result["equal"] for result in results] == [True, True]


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_ranks_that_do_not_watch_are_noticed(run_ranks: Run, how: str) -> None:
    (first,), (second,) = run_ranks(2, "some", how, "0")
    assert "findings" not in second
    assert first["log"][0].startswith("Not all 2 processes of this training are watched; rank 1 is not")
    assert first["log"][0] in first["notes"]
    assert first["steps"][:4] == [0, 1, 2, 3]


def test_one_process_of_a_watched_script_reports(run_ranks: Run) -> None:
    (first,), (second,) = run_ranks(2, "script")
    assert first["status"] == 1
    assert "AT401 improper_output_activation" in first["errors"]
    assert (second["status"], second["errors"], second["log"]) == (0, "", [])


FAULTS = {
    "nan": ("nonfinite", "It began on rank 2: its inputs were not finite"),
    "late_nan": ("nonfinite", "It began on rank 2: the others had none"),
    "weights": ("replica_desync", "it is rank 2 that differs from all others"),
    "gradients": ("replica_desync", "it is rank 2 that differs from all others, whose gradients have"),
    "twins": ("replica_desync", "ranks 1 and 2 had the same batches"),
    "scale": ("replica_desync", "Rank 2 trains on other data: the root mean square of its inputs is"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_rank_with_a_fault_is_named(run_ranks: Run, kind: str) -> None:
    (first,), *others = run_ranks(3, "faults", kind)
    problem, words = FAULTS[kind]
    assert words in first["findings"][problem]
    assert len(first["logs"]) == 1, "one log for all"
    assert all(result["findings"] == {} and result["log"] == [] for (result,) in others)


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_nobody_hangs_when_a_rank_is_killed(run_ranks: Run, how: str) -> None:
    survivor, killed = run_ranks(2, "killed", how, ends=(0, 3, -signal.SIGKILL, -signal.SIGABRT))
    assert killed == []
    if survivor:  # gloo may abort the process itself
        assert survivor[0]["error"] == "RuntimeError", "of the training's own collective operation"
        assert not any("failed" in line for line in survivor[0]["log"])


def test_ranks_with_fewer_batches(run_ranks: Run) -> None:
    (first,), (second,) = run_ranks(2, "uneven", "joined")
    assert first["steps"][0] == 0
    assert first["steps"][-1] > 20
    assert second["steps"] == []
    assert "replica_desync" not in first["findings"]
    assert not any("not finite" in line or "failed" in line for line in (*first["log"], *second["log"]))


def test_accumulation_and_loops_that_depend_on_the_rank(run_ranks: Run) -> None:
    (first,), (second,) = run_ranks(2, "accumulation", "ddp")
    assert first["steps"] == list(range(12))
    assert first["findings"].keys() <= {"too_few_epochs", "wrong_accumulation"}
    assert second["log"] == []


@pytest.mark.parametrize("losses", ["all", "last"])
def test_stages_of_a_pipeline_are_judged_as_stages(run_ranks: Run, losses: str) -> None:
    results = [result for (result,) in run_ranks(3, "stages", losses)]
    for result in results[:-1]:
        assert "improper_output_activation" not in result["findings"]
        assert any(
            "as the stages of a pipeline are; this is one that computes no loss" in note for note in result["notes"]
        )
        assert not any("No loss was observed" in note for note in result["notes"])
    assert "the one that computes the loss" in results[-1]["notes"][0]
    assert not any("replica_desync" in result["findings"] for result in results)

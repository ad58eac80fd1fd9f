"""Which processes are watched, as each of them finds out through a store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from autotrainer.backends.pytorch.ranks import handshake
from autotrainer.backends.pytorch.ranks.handshake import Agreement, Handshake

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch without torch.distributed")


@pytest.fixture(autouse=True)
def short_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_SYNCHRONIZED", 0.05)
    monkeypatch.setattr(handshake, "_READY", 0.2)


def agreements(watching: dict[int, str | None], world: int) -> list[Agreement]:
    """Return what each rank finds out; descriptions by rank, None for one that never ends its first step."""
    store = dist.HashStore()
    handshakes = {rank: Handshake(rank, world, store) for rank in watching}
    with ThreadPoolExecutor(world) as pool:
        ready = {rank: text for rank, text in watching.items() if text is not None}
        futures = [pool.submit(handshakes[rank].agree, text, synchronized=True) for rank, text in ready.items()]
        return [future.result(timeout=60) for future in futures]


def test_replicas_and_shards_measure_together() -> None:
    assert agreements({0: "a", 1: "a", 2: "a"}, 3) == [Agreement((0, 1, 2), 1, (), together=True)] * 3


def test_stages_of_a_pipeline_have_groups_of_their_own() -> None:
    first, second = (Agreement(peers, 2, (), together=True) for peers in ((0, 2), (1, 3)))
    assert agreements({0: "a", 1: "b", 2: "a", 3: "b"}, 4) == [first, second, first, second]


@pytest.mark.parametrize(
    ("watching", "missing"),
    [
        ({0: "a"}, (1, 2)),
        ({0: "a", 2: "a"}, (1,)),
        ({1: "a", 2: "a"}, (0,)),
        ({0: "a", 1: None, 2: "a"}, (1,)),
        ({0: None, 1: "a", 2: "a"}, ()),
    ],
    ids=["first alone", "one missing", "first missing", "one never ready", "first never ready"],
)
def test_all_find_out_that_not_all_are_watched(watching: dict[int, str | None], missing: tuple[int, ...]) -> None:
    found = agreements(watching, 3)
    ready = [rank for rank, text in watching.items() if text is not None]
    assert found == [Agreement((rank,), 1, missing, together=False) for rank in ready]

"""AT509: workers of a data loader that draw the same random numbers, or read the same samples."""

from __future__ import annotations

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext

__all__ = ["RepeatedAugmentation"]


class RepeatedAugmentation(Rule):
    """Workers of the data loader draw the same random numbers, or read the same samples.

    What it does
        Has two workers of a loader like the one given read the same samples, twice each, before training.

    Why it hurts
        Samples that are changed at random are meant to differ each time. Workers that draw the same numbers change
        theirs in the same ways: there is less variety than it seems. Workers of an iterable data set that all read
        everything make each sample come once for each worker, so that an epoch is several, and batches repeat.

    Evidence used
        Sixteen samples, compared to the bit: they come out differently when a worker reads them again, but the second
        worker gets the very same, both times. A second pass over the data shows whether each epoch begins with the
        same numbers.

    Thresholds
        None: equal is equal. Samples must come out differently in half of the cases, or nothing is said: workers that
        draw for themselves agree by chance in one of 100 000 cases at most.

    When it is wrong
        A seed for all workers on purpose. Only `check` of a PyTorch model sees the loader, and only one that has
        workers and samples with numbers from 0 on; rare changes go unseen. PyTorch seeds ``random``, NumPy's global
        generator and its own in each worker; generators that a data set makes for itself it can't know.

    Repairs
        Advice only: make the generator in the worker, from ``torch.initial_seed()`` (in ``worker_init_fn``, or at first
        use), never in ``__init__`` of the data set; seed by no constant there; divide an iterable data set by
        ``torch.utils.data.get_worker_info()``.

    References
        PyTorch documentation, torch.utils.data: randomness in multi-process data loading, and IterableDataset; NumPy
        documentation, parallel random number generation.
    """

    problem = "repeated_augmentation"
    code = "AT509"
    aliases = ("worker_seed", "same_augmentation", "dataloader_workers", "duplicate_workers", "worker_init_fn")
    needs = frozenset({"workers_draw_alike", "passes_draw_alike", "workers_read_alike"})
    static = True

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge what is known of the loader."""
        evidence = {name: context.asked[name] for name in sorted(self.needs) if name in context.asked}
        every_pass = bool(evidence.get("passes_draw_alike"))
        if evidence.get("workers_read_alike"):
            message = (
                "Two workers of the data loader yield the same samples: the iterable data set is not divided among "
                "them (get_worker_info), and each sample comes once for each worker."
            )
            return self.finding(Severity.WARNING, 0.9, message, evidence)
        if evidence.get("workers_draw_alike"):
            also = ", and the same ones in each pass over the data" if every_pass else ""
            message = f"Two workers of the data loader draw the same random numbers{also}: seed each by its own."
            return self.finding(Severity.WARNING, 0.9, message, evidence)
        if every_pass:
            message = "The workers of the data loader draw the same random numbers in each pass over the data."
            return self.finding(Severity.INFO, 0.7, message, evidence)
        return None

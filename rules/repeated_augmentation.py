"""AT509: workers of a data loader that draw the same random numbers, or read the same samples."""

from __future__ import annotations

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext

__all__ = ["RepeatedAugmentation"]


class RepeatedAugmentation(Rule):
    """Workers of the data loader draw the same random numbers, or read the same samples.

    What it does
        Before training, has two workers of a loader like yours read the same samples, twice each.

    Why it hurts
        Samples that are changed at random should differ each time. Workers that draw the same numbers change theirs in
        the same ways, so there is less variety than it seems. If all workers of an iterable data set read everything,
        each sample comes once per worker: an epoch is several, and batches repeat.

    Evidence used
        Sixteen samples, compared bit by bit: they differ when a worker reads them again, but the second worker gets
        exactly the same, both times. A second pass over the data shows whether each epoch begins with the same numbers.

    Thresholds
        None: equal is equal. Samples must differ in half of the cases, else nothing is reported: workers that draw
        independently agree by chance in one of 100,000 cases at most.

    When it is wrong
        The same seed for all workers on purpose. Only `check` of a PyTorch model sees the loader, and only a loader
        that has workers and samples numbered from 0; rare changes go undetected. PyTorch seeds ``random``, NumPy's
        global generator and its own in each worker; it can't know generators that a data set creates itself.

    Repairs
        Advice only: create the generator in the worker from ``torch.initial_seed()`` (in ``worker_init_fn``, or at
        first use), never in the data set's ``__init__``, and do not seed it with a constant; divide an iterable data
        set by ``torch.utils.data.get_worker_info()``.

    References
        PyTorch documentation, torch.utils.data: randomness in multi-process data loading, and IterableDataset; NumPy
        documentation, parallel random number generation.
    """

    problem = "repeated_augmentation"
    code = "AT509"
    aliases = ("worker_seed", "same_augmentation", "dataloader_workers", "duplicate_workers", "worker_init_fn")
    phrases = (
        "same augmentation every epoch",
        "augmentation is not random",
        "same random numbers in every worker",
        "dataloader workers return the same data",
        "dataloader returns duplicates",
        "num_workers repeats data",
    )
    needs = frozenset({"workers_draw_alike", "passes_draw_alike", "workers_read_alike"})
    static = True

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked[name] for name in sorted(self.needs) if name in context.asked}
        every_pass = bool(evidence.get("passes_draw_alike"))
        if evidence.get("workers_read_alike"):
            message = (
                "Two workers of the data loader yield the same samples: the iterable data set is not divided among "
                "the workers (see get_worker_info), so each sample comes once per worker."
            )
            return self.finding(Severity.WARNING, 0.9, message, evidence)
        if evidence.get("workers_draw_alike"):
            also = ", and the same ones in each pass over the data" if every_pass else ""
            message = f"Two workers of the data loader draw the same random numbers{also}: seed each one differently."
            return self.finding(Severity.WARNING, 0.9, message, evidence)
        if every_pass:
            message = "The workers of the data loader draw the same random numbers in each pass over the data."
            return self.finding(Severity.INFO, 0.7, message, evidence)
        return None

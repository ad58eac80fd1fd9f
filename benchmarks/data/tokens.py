"""Synthetic token sequences for transformers: tasks that need attention and positions; see `synthetic`.

Tokens: 0 pads (at the end), 1 begins a sequence, 2 separates or marks, 3 asks for the reverse, others are content.
Targets of language models are next tokens, ``IGNORED`` where none is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORED", "LENGTH", "PAD", "TOKENS", "VOCABULARY", "pretraining_batch"]

Draw = np.random.Generator
Pair = tuple[NDArray[Any], NDArray[Any]]

PAD, BEGIN, MARK, REVERSE, FIRST = 0, 1, 2, 3, 4
VOCABULARY = 20
LENGTH = 20
"""Tokens of a sequence, padding included."""

IGNORED = -100
"""Target of a token that does not count in the loss."""

QUESTIONS = {"after": BEGIN, "before": REVERSE, "order": MARK}
"""What an encoder is pretrained on: the token after the mark, the one before it, which of two tokens comes first.

Each with the token that begins its sequences.
"""


def _classification(draw: Draw, rows: int, question: str) -> Pair:
    """Draw sequences of 9 to 19 tokens after the first one, which says what is asked.

    Targets are tokens, or 0 and 1 for ``order``.
    """
    length = draw.integers(9, LENGTH, rows)
    content = draw.integers(FIRST + 2, VOCABULARY, (rows, LENGTH))
    place = 2 + (draw.random(rows) * (length - 2)).astype(np.int64)  # from 2 to length - 1
    index, y = np.arange(rows), np.zeros(rows, np.int64)
    if question == "order":
        other = 1 + (draw.random(rows) * (length - 1)).astype(np.int64)
        other += other >= place
        content[index, place], content[index, other] = FIRST, FIRST + 1
        y = (place < other).astype(np.int64)
    else:
        content[index, place] = MARK
        y = content[index, place + (1 if question == "after" else -1)].copy()
    content[:, 0] = QUESTIONS[question]
    return np.where(np.arange(LENGTH) <= length[:, None], content, PAD), y


def _classes(question: str) -> Callable[..., Pair]:
    def generate(draw: Draw, rows: int = 1400, classes: int = 3) -> Pair:
        lexicon = draw.permutation(np.arange(VOCABULARY) % classes)
        x, y = _classification(draw, rows, question)
        return x, (y if question == "order" else lexicon[y])

    generate.__doc__ = f"""Draw sequences and the class of what is asked: {question} (`QUESTIONS`)."""
    return generate


def _sequence(draw: Draw, rows: int, task: str, table: NDArray[Any], cipher: NDArray[Any]) -> Pair:
    """Draw texts, padded, and a mask of the tokens that are to be predicted."""
    x = np.full((rows, LENGTH + 1), PAD)
    asked = np.zeros(x.shape, bool)
    x[:, 0] = BEGIN
    if task == "grammar":
        x[:, 1:3] = draw.integers(FIRST, VOCABULARY, (rows, 2))
        for step in range(3, LENGTH + 1):
            choice = table[x[:, step - 2] % len(table), x[:, step - 1]]
            x[:, step] = np.where(draw.random(rows) < 0.92, choice, draw.integers(FIRST, VOCABULARY, rows))
        ends = draw.integers(14, LENGTH + 2, rows)[:, None]
        asked[:] = np.arange(LENGTH + 1) >= 3
        return np.where(np.arange(LENGTH + 1) < ends, x, PAD), asked
    for row, wanted in zip(x, asked, strict=True):
        if task == "recall":
            pairs = int(draw.integers(3, 5))
            keys = draw.permutation(np.arange(FIRST, 12))[:pairs]
            values = draw.integers(12, VOCABULARY, pairs)
            order = draw.permutation(pairs)
            row[1 : 2 * pairs + 1] = np.stack([keys, values], 1).ravel()
            row[2 * pairs + 1] = MARK
            start = 2 * pairs + 2
            row[start : start + 2 * pairs] = np.stack([keys[order], cipher[values[order]]], 1).ravel()
            wanted[start + 1 : start + 2 * pairs : 2] = True
        else:
            count = int(draw.integers(5, 10))
            segment = draw.integers(FIRST, VOCABULARY, count)
            row[1 : count + 1] = segment
            row[count + 1] = MARK if task == "copy" else REVERSE
            answer = segment if task == "copy" else segment[::-1]
            row[count + 2 : 2 * count + 2] = cipher[answer]
            wanted[count + 2 : 2 * count + 2] = True
    return x, asked


def _table(draw: Draw, ways: int) -> NDArray[Any]:
    """Return a successor of each token, for each remainder of the token before it; (ways, tokens)."""
    table = np.stack([np.arange(VOCABULARY)] * ways)
    for row in table:
        row[FIRST:] = draw.permutation(np.arange(FIRST, VOCABULARY))
    return table


def _cipher(draw: Draw, changed: int) -> NDArray[Any]:
    """Return the tokens with the given number of values (12 to 19) exchanged in a cycle."""
    cipher = np.arange(VOCABULARY)
    chosen = draw.permutation(np.arange(12, VOCABULARY))[:changed]
    cipher[chosen] = np.roll(chosen, 1)
    return cipher


def _texts(task: str) -> Callable[..., Pair]:
    def generate(draw: Draw, rows: int = 1100, changed: int = 4, prompts: bool = False) -> Pair:
        text, asked = _sequence(draw, rows, task, _table(draw, 4), _cipher(draw, changed))
        counted = (text != PAD) if prompts else asked & (text != PAD)
        return text[:, :-1], np.where(counted, text, IGNORED)[:, 1:]

    generate.__doc__ = f"""Draw texts of the task {task} and the next tokens; ``prompts``: those of the prompt, too.

    In the answers, some tokens stand for others (``changed``), unlike in the texts of the pretraining.
    """
    return generate


def pretraining_batch(form: str, draw: Draw, rows: int) -> Pair:
    """Draw a batch for the pretraining of an ``encoder`` or ``decoder``: all tasks mixed.

    Targets of an encoder are tokens; those of a decoder the next tokens, prompts included.
    """
    if form == "encoder":
        parts = [_classification(draw, -(-rows // len(QUESTIONS)), question) for question in QUESTIONS]
        x, y = (np.concatenate(arrays)[:rows] for arrays in zip(*parts, strict=True))
        return x, y
    same, table = np.arange(VOCABULARY), _table(np.random.default_rng(0), 2)
    tasks = ("copy", "recall", "reverse", "grammar")
    texts = [_sequence(draw, -(-rows // len(tasks)), task, table, same)[0] for task in tasks]
    text = np.concatenate(texts)[:rows]
    return text[:, :-1], np.where(text != PAD, text, IGNORED)[:, 1:]


TOKENS: Mapping[str, Callable[..., Pair]] = {
    **{f"token_{question}": _classes(question) for question in QUESTIONS},
    **{f"token_{task}": _texts(task) for task in ("copy", "recall", "reverse", "grammar")},
}
"""Data sets by name."""

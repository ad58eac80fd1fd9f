"""Finds the page of a problem or a repair by everyday words: ``loss is nan``, ``accuracy stuck``.

Pages are ranked by BM25F: a word counts by the field that it stands in, and more where few pages have it. Added is how
closely the query as a whole agrees with one short text: the name, the title, an alias or a phrase.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

__all__ = ["Match", "SearchPage", "clear_best", "search"]

_WEIGHTS = {"name": 4.0, "aliases": 3.0, "phrases": 3.0, "title": 2.0, "body": 0.5}
_SATURATION = 1.5
_LENGTH_PENALTY = 0.5
"""k1 and b of BM25 (Robertson and Zaragoza, 2009), at about their usual values."""
_NAME_AGREEMENT, _PHRASE_AGREEMENT = 8.0, 6.0
"""What agreement with a whole name or alias, and with a whole phrase or title, adds; a matched word adds about 3."""
_TYPED_PHRASE = 6.0
"""What a phrase that was typed exactly adds: small words count there, too."""
_MARGIN = 1.15
"""A best match is clear from this ratio to the next score."""
_COVERAGE = 0.4
"""Share of the query's words, by weight, that a clear match must have."""
_SCORE = 2.2
"""Score of a clear match at least: less is one common word."""

_STOP_WORDS = frozenset(
    """
    a about after all always am an and are as at be been but by can do doe doesn for from get got has have how i if in
    is isn it its just keep lot me model my network neural of on or our so still that the their there this to too train
    training very was we what when while why will with you your
    """.split()  # noqa: SIM905 - a list would take a line a word
)
_SYNONYMS = {
    stem: word
    for word, stems in {
        "accuracy": "acc",
        "activation": "activations",
        "converge": "converg",
        "dead": "die dy dying",
        "diverge": "diverg",
        "explode": "blow explod",
        "fall": "decreas drop reduc",
        "gradient": "grad",
        "half": "amp bf16 float16 fp16",
        "high": "big huge larg large",
        "imbalance": "imbalanc unbalanc",
        "inf": "infinite infinity",
        "leak": "leakage",
        "learning_rate": "lr",
        "low": "small tiny",
        "nan": "nonfinite",
        "no": "none without",
        "normalization": "batchnorm",
        "oscillate": "bounce fluctuat noisy oscillat oscillation swing unstable wiggl zigzag",
        "overfit": "overfitt",
        "rise": "ascend climb grow higher increas ris rose worse",
        "same": "constant identical",
        "slow": "slowly",
        "spike": "jump leap",
        "stuck": "flat frozen plateau",
        "target": "label",
        "unit": "neuron",
        "validation": "test val",
    }.items()
    for stem in stems.split()
}
"""Stems and abbreviations that mean the same to somebody who looks for help."""
_JOINED = (
    (r"learning rates?", "learning_rate"),
    (r"zero grad", "zero_grad"),
    (r"go(es|ing)? up", "rise"),
    (r"go(es|ing)? down", "fall"),
    (r"(jump|bounc)(s|es|ing)? around", "oscillate"),
)
"""Expressions that count as one word."""


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page, as it is searched.

    Attributes:
        name: Problem or repair.
        aliases: Other names.
        phrases: What people type who do not know the name.
        title: The sentence that the page begins with.
        body: The rest.
        weight: What its score is multiplied by: people describe a symptom more often than a remedy.
    """

    name: str
    aliases: tuple[str, ...]
    phrases: tuple[str, ...]
    title: str
    body: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Match:
    """One result of a search.

    Attributes:
        name: The page's name.
        score: How well it matches; comparable within one search only.
        coverage: Share of the query, in [0, 1], that the page has: words by their weight.
    """

    name: str
    score: float
    coverage: float


def search(query: str, pages: Sequence[SearchPage]) -> list[Match]:
    """Rank pages by how well they match a query.

    Args:
        query: What somebody typed.
        pages: All pages.

    Returns:
        Those that share a word with it, best first; misspelled words count as the nearest word of the pages.
    """
    fields = [_fields(page) for page in pages]
    frequency = Counter(word for page in fields for word in set().union(*page.values()))
    weights = {word: math.log(1 + (len(pages) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    words = [_spelled(word, weights) for word in dict.fromkeys(_words(query))]
    unknown = sum(weights.values()) / len(weights) if weights else 1.0
    total = sum(weights.get(word, unknown) for word in words)
    lengths = {name: sum(page[name].total() for page in fields) / len(pages) for name in _WEIGHTS} if pages else {}
    matches = []
    for page, page_fields in zip(pages, fields, strict=True):
        score = covered = 0.0
        for word in words:
            count = sum(
                weight * page_fields[name][word] / _normalized(page_fields[name].total(), lengths[name])
                for name, weight in _WEIGHTS.items()
                if page_fields[name][word]
            )
            if count:
                covered += weights[word]
                score += weights[word] * count / (count + _SATURATION)
        typed = _plain(query) in map(_plain, page.phrases)
        if covered or typed:
            names = max(_agreement(words, text) for text in (page.name, *page.aliases))
            phrases = max(_agreement(words, text) for text in (page.title, *page.phrases))
            score += max(_NAME_AGREEMENT * names**2, _PHRASE_AGREEMENT * phrases**2) + _TYPED_PHRASE * typed
            coverage = covered / total if total else 1.0
            matches.append(Match(page.name, page.weight * coverage * score, coverage))
    return sorted(matches, key=lambda match: -match.score)


def clear_best(matches: Sequence[Match]) -> Match | None:
    """Return the first of ranked matches if it has most of the query and leads by a margin, else None."""
    if not matches or matches[0].coverage < _COVERAGE or matches[0].score < _SCORE:
        return None
    if len(matches) > 1 and matches[0].score < _MARGIN * matches[1].score:
        return None
    return matches[0]


def _fields(page: SearchPage) -> dict[str, Counter[str]]:
    texts = {"name": page.name, "title": page.title, "body": page.body}
    texts |= {"aliases": " ".join(page.aliases), "phrases": " ".join(page.phrases)}
    return {name: Counter(_words(text)) for name, text in texts.items()}


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    """Return the words that count, stemmed: ``Losses are exploding`` gives ``loss`` and ``explode``."""
    plain = _plain(text)
    for expression, word in _JOINED:
        plain = re.sub(rf"\b{expression}\b", word, plain)
    stems = (_stem(word) for word in plain.split() if word not in _STOP_WORDS)
    return tuple(_SYNONYMS.get(stem, stem) for stem in stems if stem not in _STOP_WORDS)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _stem(word: str) -> str:
    """Return a word without its commonest endings."""
    if word in _SYNONYMS or "_" in word or len(word) < 4:
        return word
    for ending, least in (("ingly", 4), ("ing", 3), ("ies", 3), ("sses", 2), ("ed", 3), ("es", 4), ("s", 3), ("e", 4)):
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith(("ss", "us", "is")):
            stem = word[: -len(ending)]
            if ending == "ies":
                return stem + "y"
            if ending == "sses":
                return stem + "ss"
            return stem[:-1] if ending in ("ing", "ed") and stem[-1] == stem[-2] != "s" else stem
    return word


def _spelled(word: str, known: Iterable[str]) -> str:
    """Return the word, or the nearest known one where it must be a misspelling."""
    if word in known or len(word) < 5:
        return word
    return next(iter(get_close_matches(word, known, n=1, cutoff=0.8)), word)


def _normalized(length: int, average: float) -> float:
    return 1 - _LENGTH_PENALTY + _LENGTH_PENALTY * length / average


def _agreement(words: Sequence[str], text: str) -> float:
    """Return how far query and text are the same words, in [0, 1]: Dice's coefficient."""
    one, other = set(words), set(_words(text))
    return 2 * len(one & other) / (len(one) + len(other)) if one and other else 0.0

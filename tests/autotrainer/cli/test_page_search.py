from __future__ import annotations

import json

import pytest

from autotrainer import registry
from autotrainer.cli import main
from autotrainer.cli.page_search import Match, SearchPage, clear_best, search

Capture = pytest.CaptureFixture[str]

PAGES = [
    SearchPage(
        "overfitting",
        ("overfit",),
        ("is the model good",),
        "The validation loss rises while the training loss falls.",
        "Early stop.",
    ),
    SearchPage(
        "divergence", ("rising_loss",), ("loss goes up",), "The training loss rises and stays up.", "The learning rate."
    ),
    SearchPage("nonfinite", ("nan", "nan_loss"), (), "Loss or weights are NaN or infinite.", "A logarithm of zero."),
    SearchPage(
        "stop_early", (), (), "Stop when the validation loss has not fallen.", "Against overfitting.", weight=0.7
    ),
]


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("loss is nan", "nonfinite"),
        ("NaN", "nonfinite"),
        ("losses are rising", "divergence"),
        ("my loss goes up", "divergence"),
        ("val loss increases", "overfitting"),
        ("model overfits", "overfitting"),
        ("overfittting", "overfitting"),  # misspelled
        ("Is the model good?", "overfitting"),  # a phrase, as it stands
        ("log of zero", None),  # one word of a body is too little
        ("loss", None),
        ("pizza", None),
        ("", None),
        ("is the", None),
    ],
)
def test_clear_best_of_few_pages(query: str, page: str | None) -> None:
    best = clear_best(search(query, PAGES))
    assert (best.name if best else None) == page


def test_search_ranks_and_leaves_out_pages_without_a_word_of_the_query() -> None:
    matches = search("validation loss", PAGES)
    assert [match.name for match in matches][:2] == ["overfitting", "stop_early"]
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    assert matches[0].coverage == 1.0
    assert [match.name for match in search("logarithm", PAGES)] == ["nonfinite"]
    assert search("loss", []) == []


@pytest.mark.parametrize(
    ("scores", "coverage", "clear"),
    [([9.0], 1.0, True), ([9.0, 8.5], 1.0, False), ([9.0, 4.0], 1.0, True), ([9.0], 0.3, False), ([1.0], 1.0, False)],
)
def test_a_clear_match_leads_covers_the_query_and_has_weight(scores: list[float], coverage: float, clear: bool) -> None:
    matches = [Match(f"page {number}", score, coverage) for number, score in enumerate(scores)]
    assert (clear_best(matches) is not None) == clear


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("loss is nan", "nonfinite"),
        ("my loss becomes inf", "nonfinite"),
        ("nan in my inputs", "nonfinite_data"),
        ("accuracy stuck", "not_learning"),
        ("gradients are None", "no_gradient"),
        ("loss goes up", "divergence"),
        ("val loss increases", "overfitting"),
        ("model overfits", "overfitting"),
        ("relu dead", "dying_relu"),
        ("gradients vanish in the first layers", "vanishing_gradient"),
        ("vanishing gradeint", "vanishing_gradient"),
        ("exploding gradients", "exploding_gradient"),
        ("gradient spikes", "gradient_spike"),
        ("loss jumps around", "oscillating_loss"),
        ("loss fluctuates a lot", "oscillating_loss"),
        ("sudden spike in the loss", "loss_spike"),
        ("training is too slow", "slow_convergence"),
        ("learning rate too high", "learning_rate_too_high"),
        ("lr too small", "learning_rate_too_low"),
        ("forgot zero_grad", "missing_zero_grad"),
        ("forgot model.eval()", "wrong_training_mode"),
        ("imbalanced classes", "class_imbalance"),
        ("data not shuffled", "unshuffled_data"),
        ("train and test data overlap", "data_leakage"),
        ("sigmoid saturated", "saturated_activation"),
        ("targets not scaled", "unscaled_targets"),
        ("wrong loss function", "improper_loss"),
        ("labels have the wrong shape", "target_mismatch"),
        ("scheduler never steps", "wrong_schedule"),
        ("model too small", "insufficient_capacity"),
        ("model ignores its input", "ignored_input"),
        ("random labels", "unlearnable_targets"),
        ("stopped training too early", "too_few_epochs"),
        ("bad weight initialization", "poor_initialization"),
        ("data loader workers same seed", "repeated_augmentation"),
        ("ddp weights differ", "replica_desync"),
        ("initial loss too high", "abnormal_initial_loss"),
        ("weight decay too strong", "abnormal_update_ratio"),
        ("clip the gradient", "clip_gradients"),
        ("larger batch", "change_batch_size"),
    ],
)
def test_explain_finds_the_page_by_everyday_words(query: str, page: str, capsys: Capture) -> None:
    assert main(["explain", *query.split()]) == 0  # quoted or not
    printed = capsys.readouterr().out
    title = printed.splitlines()[0] if not printed.startswith("Best match") else printed.splitlines()[2]
    assert title.split()[-1] == page
    assert main(["explain", query]) == 0
    assert capsys.readouterr().out == printed


def test_zero_gradients_have_vanished_or_never_arrived(capsys: Capture) -> None:
    assert main(["explain", "gradient", "zero"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[-1] in ("no_gradient", "vanishing_gradient")


def test_the_first_line_and_the_json_say_what_was_matched(capsys: Capture) -> None:
    assert main(["explain", "loss", "is", "nan"]) == 0
    assert capsys.readouterr().out.startswith("Best match for 'loss is nan': AT801 nonfinite\n\nAT801 nonfinite\n=====")
    assert main(["explain", "loss", "is", "nan", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["title"], page["kind"], page["best_match_for"]) == ("AT801 nonfinite", "problem", "loss is nan")
    assert main(["explain", "nan", "--json"]) == 0
    assert "best_match_for" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("query", ["gradient", "accuracy", "pizza", "xyzzy plugh", "%"])
def test_three_suggestions_where_no_page_is_clearly_best(query: str, option: list[str], capsys: Capture) -> None:
    assert main(["explain", query, *option]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"autotrainer: no clear match for {query!r}: did you mean ")
    names = captured.err.strip().removesuffix("?").partition("did you mean ")[2].replace(" or ", ", ").split(", ")
    pages = {rule.problem for rule in registry.rules()} | {repair.name for repair in registry.repairs()}
    assert len(names) == 3
    assert set(names) <= pages


def test_every_phrase_of_a_rule_leads_to_its_page(capsys: Capture) -> None:
    for rule in registry.rules():
        for phrase in rule.phrases:
            assert main(["explain", phrase]) == 0, phrase
            assert rule.problem in capsys.readouterr().out.splitlines()[0], phrase

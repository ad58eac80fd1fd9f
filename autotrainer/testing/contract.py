"""The contract of a backend as tests: subclass `BackendContract` in a test module and implement its hooks."""

from __future__ import annotations

import ast
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    Reinitialize,
    ResetOptimizerState,
    ReviveUnits,
    Rollback,
    ScaleInputs,
    SetLearningRate,
    SetMomentum,
    SkipUpdates,
    StopEarly,
    SwapOptimizer,
    WarmUpRate,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData
from autotrainer.testing.edits import REFUSED, every_edit
from autotrainer.testing.recorded import RecordedRun

__all__ = ["BackendContract"]


class BackendContract(ABC):
    """Tests that every backend must pass. They need no test framework; pytest collects subclasses named ``Test...``."""

    rows = 96
    validation_rows = 40
    epochs = 3
    batch_size = 32

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """The backend under test."""

    @abstractmethod
    def given(self) -> Mapping[str, Any]:
        """Return fresh ``model``, ``loss`` and ``optimizer`` (SGD, rate 0.1) for `data`.

        The model has two inputs, two hidden layers with tanh, and one sigmoid output; the loss is binary
        cross-entropy.
        """

    @abstractmethod
    def weights(self, model: Any) -> list[np.ndarray[Any, Any]]:
        """Return copies of all weights and other state of a model."""

    def data(self) -> ArrayData:
        """Return a small learnable problem: inputs of shape (rows, 2), targets 0 and 1 of shape (rows, 1)."""
        inputs = np.random.default_rng(0).normal(size=(self.rows, 2)).astype(np.float32)
        return ArrayData(inputs, (inputs.sum(axis=1, keepdims=True) > 0).astype(np.float32))

    def request(self) -> FitRequest:
        """Return the request that `autotrainer.fit` would make."""
        data = self.data()
        validation = data.take(np.arange(self.validation_rows))
        return FitRequest(
            train=data, validation=validation, epochs=self.epochs, batch_size=self.batch_size, **self.given()
        )

    def train(
        self, *edits: Edit, run: RecordedRun | None = None, request: FitRequest | None = None
    ) -> tuple[Trained, RecordedRun]:
        """Run one training with these edits; return it and its run."""
        run = run or RecordedRun()
        trainer = self.backend.trainer(request or self.request())
        with self.backend.preserve_random_state():
            try:
                trained = trainer.train(TrainingSpec(self.epochs, 0, edits), run)
            finally:
                run.monitor.close()
        return trained, run

    # -- the contract ---------------------------------------------------------------------------------------------

    def test_accepts_its_own_models_only(self) -> None:
        """`Backend.accepts` returns True only for models of its framework."""
        assert self.backend.accepts(self.given()["model"])
        for other in (None, 3, "model", object(), lambda: None, np.zeros(3)):
            assert not self.backend.accepts(other)

    def test_layers_are_named_once_and_in_order(self) -> None:
        """`Backend.layers` names each layer once; all but the output layer are hidden."""
        layers = self.backend.layers(self.given()["model"])
        assert len({layer.name for layer in layers}) == len(layers)
        owners = [layer for layer in layers if layer.parameters]
        assert [layer.hidden for layer in owners] == [True, True, False]
        assert all(layer.activation in ("tanh", None) for layer in owners[:2])

    def test_the_given_model_stays_as_it_is(self) -> None:
        """Neither preparing nor running trainings changes the user's model."""
        request = self.request()
        before = self.weights(request.model)
        self.train(ScaleInputs(), request=request)
        for old, new in zip(before, self.weights(request.model), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_equal_trainings_are_equal_to_the_bit(self) -> None:
        """Trainings with equal seed and edits have equal results, whatever ran before."""
        trainer = self.backend.trainer(self.request())
        results = []
        for edits in ((), (SetLearningRate(0.5),), ()):
            with self.backend.preserve_random_state():
                run = RecordedRun()
                trained = trainer.train(TrainingSpec(self.epochs, 0, edits), run)
                run.monitor.close()
            results.append(self.weights(trained.model))
        assert all(np.array_equal(a, b) for a, b in zip(results[0], results[2], strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))

    def test_monitoring_changes_nothing(self) -> None:
        """The weights are equal bit by bit, whether steps are measured or not."""
        plain, _ = self.train(run=RecordedRun(watched=False))
        watched, run = self.train()
        assert len(run.monitor.history.steps) > 0
        assert all(
            np.array_equal(a, b) for a, b in zip(self.weights(plain.model), self.weights(watched.model), strict=True)
        )

    def test_calls_come_in_order_and_all_work_is_told(self) -> None:
        """The trainer calls keep and start, then spend before each batch, and evaluates at each epoch's end."""
        _, run = self.train()
        assert set(run.calls[:2]) == {"keep", "start"}
        assert run.trained == self.rows * self.epochs
        assert run.evaluated == self.validation_rows * self.epochs
        assert [epoch for epoch, _, _ in run.ends] == list(range(self.epochs))
        assert all(np.isfinite(values["loss"]) for _, values, _ in run.ends)
        assert run.operations >= 1
        assert (run.context.framework, run.context.output_units) == (self.backend.name, 1)
        assert run.context.loss.family == "binary_cross_entropy"

    def test_ends_where_it_is_told_to(self) -> None:
        """`Run.end_epoch` returning False ends the training."""
        _, run = self.train(run=RecordedRun(epochs=2))
        assert len(run.ends) == 2

    def test_goes_on_after_a_pause_as_if_it_had_not_been(self) -> None:
        """Weights, evaluations and losses are equal bit by bit, with or without pauses in which other trainings run."""
        request = replace(self.request(), epochs=5)
        trainer = self.backend.trainer(request)
        if not trainer.resumable:
            import pytest

            pytest.skip("this backend does not pause trainings")
        hidden = tuple(layer.name for layer in trainer.context.layers if layer.parameters and layer.hidden)
        recipes: tuple[tuple[Edit, ...], ...] = (
            (),
            (AddDropout(hidden, 0.2), SwapOptimizer("adam", 0.01), WarmUpRate(3), ClipGradients("norm", 1.0)),
            (SetLearningRate(30.0), ReduceOnPlateau(patience=1), StopEarly(3), Rollback(), SkipUpdates()),
            (AddInputNoise(0.1), DecayRate(), ReviveUnits(hidden), ResetOptimizerState(2), SetMomentum(0.9)),
        )
        for recipe in recipes:
            edits, outcomes = tuple(edit for edit in recipe if trainer.supports(edit)), []
            for pauses in ((), (1, 3)):
                run, spec = RecordedRun(pauses=pauses), TrainingSpec(5, 0, edits)
                with self.backend.preserve_random_state():
                    trained = trainer.train(spec, run)
                    for _ in range(len(pauses)):
                        during_pause = trained.evaluate(request.validation)
                        other = RecordedRun(epochs=1)
                        trainer.train(TrainingSpec(5, 1), other)
                        other.monitor.close()
                        assert trained.paused is not None, "it was not paused"
                        if not trained.paused.go_on():
                            trained.paused = None
                    assert trained.paused is None
                    run.monitor.close()
                losses = [evaluation.loss for _, _, evaluation in run.ends if evaluation is not None]
                outcomes.append((self.weights(trained.model), losses, run.monitor.history.losses[1]))
            for old, new in zip(outcomes[0][0], outcomes[1][0], strict=True):
                np.testing.assert_array_equal(old, new, str(edits))
            np.testing.assert_array_equal(outcomes[0][1], outcomes[1][1], str(edits))
            np.testing.assert_array_equal(outcomes[0][2], outcomes[1][2], str(edits))
            assert np.isfinite(during_pause.loss)

    def test_never_does_what_is_denied(self) -> None:
        """A denied step ends the training; the weights are evaluated once more."""
        allowed = self.rows + self.batch_size
        reserve = self.validation_rows
        trained, run = self.train(run=RecordedRun(3 * allowed + 2 * reserve, reserve))
        assert (run.trained, run.denied) == (allowed, 1)
        assert run.calls[-1] == "end_epoch"
        validation = self.request().validation
        assert isinstance(validation, ArrayData)
        np.testing.assert_allclose(
            trained.predict(validation.inputs).reshape(-1), run.evaluation.outputs.reshape(-1), rtol=1e-5, atol=1e-6
        )

    def test_evaluations_have_all_rows_in_order(self) -> None:
        """Outputs are float64, targets unchanged, row by row; the loss is that of the outputs."""
        trained, _ = self.train()
        data = self.data()
        evaluation = trained.evaluate(data)
        assert evaluation.outputs.dtype == np.float64
        np.testing.assert_array_equal(evaluation.targets, data.targets)
        p, y = evaluation.outputs.reshape(-1), data.targets.reshape(-1)
        loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        np.testing.assert_allclose(evaluation.loss, loss, rtol=1e-4)

    def test_every_edit_works_or_says_why_not(self) -> None:
        """`Trainer.supports` accepts each edit or returns a reason; every supported edit can be trained."""
        request = replace(self.request(), epochs=1)
        trainer = self.backend.trainer(request)
        hidden = [layer.name for layer in trainer.context.layers if layer.parameters and layer.hidden]
        for edit in every_edit(hidden):
            support = trainer.supports(edit)
            if not support:
                assert support.reason, f"{edit!r} is not supported, but no reason is returned"
                continue
            with self.backend.preserve_random_state():
                run = RecordedRun()
                trained = trainer.train(TrainingSpec(1, 0, (edit,)), run)
                run.monitor.close()
            assert [type(e) for e in trained.edits] == [type(edit)], f"{edit!r} is missing from Trained.edits"
            assert np.isfinite(trained.predict(self.data().inputs)).all(), f"{edit!r} breaks the model"
            if isinstance(edit, ScaleInputs):
                filled = trained.edits[0]
                assert isinstance(filled, ScaleInputs)
                np.testing.assert_allclose(filled.mean, self.data().inputs.mean(axis=0), atol=1e-5)

    def test_columns_are_scaled_inside_the_model(self) -> None:
        """A dropped column of the inputs changes nothing, and one on a logarithmic scale may have any size."""
        trained, _ = self.train(ScaleInputs((5.0, 2.0), (2.0, 3.0), (0.0, 1.0), (0.0, 0.5), constant=(0,)))
        values = np.array([[0.0, 3.0], [1e6, 3.0], [0.0, 3e9]], np.float32)
        answers = trained.predict(values).reshape(-1)
        assert answers[0] == answers[1]
        plain, _ = self.train(ScaleInputs((0.0, 0.0), (1.0, 1.0)))
        np.testing.assert_array_equal(plain.predict(np.zeros((1, 2), np.float32)).shape, (1, 1))
        assert np.isfinite(answers).all()
        assert answers[2] != answers[1]

    def test_numbers_for_missing_values_are_replaced_inside_the_model(self) -> None:
        """A number that stands for missing values has the effect of what replaces it, and of no other value."""
        edit = ScaleInputs(
            (5.0, 2.0), (2.0, 3.0), (0.0, 1.0), (0.0, 0.5), (), (), (0, 0, 1), (-999.0, 1e20, -1.0), (0.0, 2.0, 0.0)
        )
        trained, _ = self.train(edit)
        log = 2.0  # asinh of it is the mean of the second column
        second = 1.0 + 0.5 * float(np.sinh(log))
        values = [[-999.0, second], [5.0, second], [1e20, second], [9.0, second], [5.0, -1.0], [-998.0, second]]
        answers = trained.predict(np.array(values, np.float32)).reshape(-1)
        np.testing.assert_allclose(answers[[0, 2, 4]], answers[[1, 3, 1]], rtol=1e-4, atol=1e-5)
        assert not np.isclose(answers[5], answers[1])

    def test_kept_layers_are_not_touched(self) -> None:
        """An edit of layers that ``keep`` names is not supported, and the reason names the pattern."""
        hidden = [layer.name for layer in self.backend.layers(self.given()["model"]) if layer.parameters]
        trainer = self.backend.trainer(replace(self.request(), keep=(hidden[0],)))
        support = trainer.supports(Reinitialize((hidden[0],), "he_uniform"))
        assert not support
        assert hidden[0] in support.reason

    def test_values_that_make_no_sense_are_refused_before_any_backend(self) -> None:
        """An edit refuses them when it is made, so that no backend can treat them in a way of its own."""
        for build in REFUSED:
            try:
                edit = build()
            except ConfigError:
                continue
            raise AssertionError(f"{edit!r} was accepted")

    def test_supported_edits_have_lines_that_run_or_none(self) -> None:
        """`Backend.patch` returns lines of Python for each supported edit, or an empty list."""
        trainer = self.backend.trainer(self.request())
        hidden = [layer.name for layer in trainer.context.layers if layer.parameters and layer.hidden]
        edits = [edit for edit in every_edit(hidden) if trainer.supports(edit)]
        for edit in edits:
            for plan in ((), (edit,), edits):
                lines = self.backend.patch(edit, plan)
                assert not isinstance(lines, str)
                assert all(isinstance(line, str) and "\n" not in line for line in lines), f"{edit!r}: {lines}"
                ast.parse("\n".join(lines))

    def test_random_states_are_put_back(self) -> None:
        """Random numbers drawn inside `Backend.preserve_random_state` do not change the state outside."""
        np.random.seed(3)
        random.seed(3)
        before = (np.random.rand(), random.random())  # nosec B311
        np.random.seed(3)
        random.seed(3)
        with self.backend.preserve_random_state():
            np.random.seed(5)
            random.seed(5)
            self.train()
        assert (np.random.rand(), random.random()) == before  # nosec B311

    def test_models_can_be_saved(self) -> None:
        """`Backend.save_model` writes files to the folder, and replaces older ones."""
        trained, _ = self.train()
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                path = self.backend.save_model(trained.model, Path(folder))
                assert path.parent == Path(folder)
                files = {file.name: file.stat().st_size for file in Path(folder).iterdir() if file.is_file()}
                assert path.name in files
                assert all(files.values())
                assert len(files) == len(list(Path(folder).iterdir()))

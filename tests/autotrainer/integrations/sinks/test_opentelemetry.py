"""OpenTelemetry: gauges, counts and events, as readers and exporters of its SDK get them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.opentelemetry import OpenTelemetrySink
from autotrainer.records.findings import Finding, Severity

pytestmark = pytest.mark.integrations

ROOT = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "Fades.", ("a",), step=7)
CONSEQUENCE = Finding("not_learning", "AT303", Severity.WARNING, 0.9, "Stuck.", step=7, caused_by="vanishing_gradient")


def points(reader: Any) -> dict[str, list[tuple[dict[str, Any], float]]]:
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    return {m.name: [(dict(p.attributes), p.value) for p in m.data.data_points] for m in scope.metrics}


def test_measurements_are_gauges_with_the_layer_as_attribute() -> None:
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    reader = export.InMemoryMetricReader()
    sink = OpenTelemetrySink(sdk.MeterProvider([reader]))
    values = {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": 1.0, "autotrainer/b/grad_norm": math.inf}
    sink.scalars(7, {**values, "autotrainer/epoch/val_loss": 0.3, "autotrainer/loss_terms/kl": 2.0})
    sink.finding(ROOT)
    sink.finding(CONSEQUENCE)
    sink.close()
    measured = points(reader)
    assert measured["autotrainer.step"] == [({}, 7)]
    assert measured["autotrainer.loss"] == [({}, 0.5)]
    assert measured["autotrainer.layer.grad_norm"] == [({"layer": "a"}, 1.0)]
    assert measured["autotrainer.epoch"] == [({"name": "val_loss"}, 0.3)]
    assert measured["autotrainer.loss_terms"] == [({"name": "kl"}, 2.0)]
    assert [(p["problem"], p["root"], n) for p, n in measured["autotrainer.findings"]] == [
        ("vanishing_gradient", "vanishing_gradient", 1),
        ("not_learning", "vanishing_gradient", 1),
    ]


def test_findings_are_events_of_the_active_span() -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = trace.TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("training") as span:
        sink = OpenTelemetrySink(metrics.MeterProvider())
        sink.finding(ROOT)
    sink.finding(CONSEQUENCE)  # the span has ended
    (event,) = span.events
    assert event.name == "autotrainer.finding"
    assert (event.attributes["problem"], event.attributes["severity"]) == ("vanishing_gradient", "error")
    assert event.attributes["layers"] == ("a",)


def test_without_a_provider_one_line_says_what_to_do() -> None:
    pytest.importorskip("opentelemetry.metrics")
    with pytest.raises(ConfigError, match=r"no meter provider.*set_meter_provider\(\) before"):
        OpenTelemetrySink()

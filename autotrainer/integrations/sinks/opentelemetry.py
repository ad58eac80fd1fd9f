"""OpenTelemetry: measurements as gauges, findings as a counter and as events of the active span."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink
from autotrainer.records.findings import Finding

__all__ = ["OpenTelemetrySink"]

_FLUSH_MILLISECONDS = 4000


class OpenTelemetrySink(CopyableSink):
    """Records metrics with a meter provider of OpenTelemetry, which exports them.

    ```python
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    with autotrainer.watch(model, optimizer, sinks=["opentelemetry"]):
        ...
    ```

    One gauge for each statistic: ``autotrainer.loss``, ``autotrainer.step``, …, and for those of layers
    ``autotrainer.layer.grad_norm``, … with the attribute ``layer``. Findings count in ``autotrainer.findings``, with
    the attributes ``problem``, ``code``, ``severity`` and ``root``, and are events of the span that is active when the
    training begins. Gauges take finite values only.

    Args:
        meter_provider: The provider; None: the global one.

    Raises:
        ConfigError: If the package ``opentelemetry`` is missing, or there is no provider.
    """

    def __init__(self, meter_provider: Any = None) -> None:
        metrics = require("opentelemetry.metrics", "opentelemetry")
        trace = require("opentelemetry.trace", "opentelemetry")
        provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
        if type(provider).__name__ in ("_ProxyMeterProvider", "NoOpMeterProvider"):
            raise ConfigError(
                "sink 'opentelemetry' has no meter provider, so nothing would be exported: call "
                "opentelemetry.metrics.set_meter_provider() before, or pass OpenTelemetrySink(meter_provider)"
            )
        self._provider: Any = provider
        self._meter: Any = provider.get_meter("autotrainer")
        self._count: Any = self._meter.create_counter("autotrainer.findings", description="findings by problem")
        self._trace: Any = trace
        self._gauges: dict[str, Any] = {}
        self.reopen()

    def reopen(self) -> None:
        """Take the span that is active now."""
        self._span: Any = self._trace.get_current_span()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Set the gauges."""
        self._gauge("autotrainer.step").set(step)
        for name, value in mapping.items():
            if not math.isfinite(value):
                continue
            group, _, statistic = name.removeprefix("autotrainer/").rpartition("/")
            if not group:
                self._gauge(f"autotrainer.{statistic}").set(value)
            elif group in ("epoch", "loss_terms"):
                self._gauge(f"autotrainer.{group}").set(value, {"name": statistic})
            else:
                self._gauge(f"autotrainer.layer.{statistic}").set(value, {"layer": group})

    def finding(self, finding: Finding, /) -> None:
        """Count a finding, and add it to the span."""
        attributes = {
            "problem": finding.problem,
            "code": finding.code,
            "severity": str(finding.severity),
            "root": finding.caused_by or finding.problem,
        }
        self._count.add(1, attributes)
        if self._span.is_recording():
            details = {"message": str(finding), "step": finding.step, "layers": list(finding.layers)}
            self._span.add_event("autotrainer.finding", {**attributes, **details})

    def close(self) -> None:
        """Export what is recorded; the provider stays open."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush(_FLUSH_MILLISECONDS)

    def _gauge(self, name: str) -> Any:
        if name not in self._gauges:
            self._gauges[name] = self._meter.create_gauge(name)
        return self._gauges[name]

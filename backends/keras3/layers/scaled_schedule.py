"""A learning-rate schedule multiplied by a constant."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["ScaledSchedule"]


@keras.saving.register_keras_serializable(package="autotrainer")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning-rate schedule multiplied by a constant."""

    def __init__(self, schedule: Any, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step."""
        return self.schedule(step) * self.factor

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ScaledSchedule:
        """Rebuild it from its arguments."""
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["factor"])

"""The process-wide settings of Keras, so that trainings in another process give the same results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["adopt_settings", "process_settings"]


def process_settings() -> dict[str, Any]:
    """Return the settings of this process."""
    import keras

    values = {
        "engine": keras.backend.backend(),
        "floatx": keras.config.floatx(),
        "policy": keras.config.dtype_policy().name,
        "format": keras.config.image_data_format(),
        "epsilon": keras.config.epsilon(),
    }
    if values["engine"] == "tensorflow":
        from tensorflow import config

        values["threads"] = config.threading.get_intra_op_parallelism_threads()
        values["eager"] = config.functions_run_eagerly()
    elif values["engine"] == "torch":
        import torch

        values["threads"] = torch.get_num_threads()
    return values


def adopt_settings(values: Mapping[str, Any]) -> None:
    """Apply the settings that `process_settings` returned in another process; call it before Keras is imported here."""
    os.environ["KERAS_BACKEND"] = values["engine"]  # Keras reads it once, when it is imported
    import keras

    keras.config.set_floatx(values["floatx"])
    keras.config.set_dtype_policy(values["policy"])
    keras.config.set_image_data_format(values["format"])
    keras.config.set_epsilon(values["epsilon"])
    if values["engine"] == "tensorflow":
        from tensorflow import config

        config.threading.set_intra_op_parallelism_threads(values["threads"])
        config.run_functions_eagerly(values["eager"])
    elif values["engine"] == "torch":
        import torch

        torch.set_num_threads(values["threads"])

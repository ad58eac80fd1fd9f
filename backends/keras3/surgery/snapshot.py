"""Puts a model that is changed in place back as it was if applying a plan fails halfway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops

__all__ = ["unchanged_on_error"]


@contextmanager
def unchanged_on_error(model: Any) -> Iterator[None]:
    """Restore the layers of a built model (class, attributes, weights), each the same object, if the block raises."""
    layers = [(layer, type(layer), dict(vars(layer))) for layer in model._flatten_layers()]
    weights = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in model.weights]
    try:
        yield
    except BaseException:
        for layer, kind, attributes in layers:
            layer.__class__ = kind
            vars(layer).clear()
            vars(layer).update(attributes)
        for variable, values in weights:
            variable.assign(values)
        raise

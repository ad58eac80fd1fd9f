"""Plugins: rules, repairs, backends and sinks of other distributions, which may fail without harm to anything else.

A plugin is checked when it is loaded, and so is what it returns. One that is broken is left out, which is logged once
with the name of its distribution.
"""

from autotrainer.plugins.containment import contain, describe_error, is_contained, isolated, origin, report_failure
from autotrainer.plugins.loading import load_plugins, load_sink, sink_names
from autotrainer.plugins.returned import check_dimension, check_proposals, valid_finding

__all__ = [
    "check_dimension",
    "check_proposals",
    "contain",
    "describe_error",
    "is_contained",
    "isolated",
    "load_plugins",
    "load_sink",
    "origin",
    "report_failure",
    "sink_names",
    "valid_finding",
]

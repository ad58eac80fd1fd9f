"""Precision and recall of each rule over its threshold."""

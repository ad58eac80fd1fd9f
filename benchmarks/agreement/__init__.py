"""Whether the same training gets the same verdict each time, on an idle and on a busy machine."""

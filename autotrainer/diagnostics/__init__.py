"""Diagnostics: experiments that name a cause. Baseline models, learning rates, data overlap, first non-finite value."""

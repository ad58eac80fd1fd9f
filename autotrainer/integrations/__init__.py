"""Integrations with training libraries, trackers, tests and sweeps: one module for each library, which imports it.

Nothing is imported here, so that no library is needed but the one in use: ``from autotrainer.integrations.lightning
import AutoTrainer``. Each library is an extra of its name (``pip install 'autotrainer-monitor[lightning]'``).
"""

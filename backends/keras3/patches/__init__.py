"""Edits as lines of Keras code to paste into a training script; nothing here imports the framework."""

"""The public functions `watch`, `check`, `fit`, `Loop` and `replay`, and watching of whole scripts."""

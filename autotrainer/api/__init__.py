"""The public verbs: `watch`, `check`, `fit`, `Loop`, `replay`, and the watch over a whole script."""

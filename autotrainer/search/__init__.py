"""From findings to the best repair: planner, candidates, search, repeated seeds, the session of `fit`."""

"""Tables, intervals, goals, comparisons and pages of rows."""

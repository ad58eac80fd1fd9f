"""Tables, pages and comparisons of rows."""

"""What can be drawn of a run, as plain data: the same for JSON, the HTML report and a live view."""

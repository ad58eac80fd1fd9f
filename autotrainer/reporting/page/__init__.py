"""The HTML report: one page that works offline, in which every name is safe and escaped."""

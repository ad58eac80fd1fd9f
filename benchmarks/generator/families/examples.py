"""Examples."""
EXAMPLES = {}

"""How long a test waits for what has to happen: in minutes, as the machine may be cold and shared."""

PATIENCE_SECONDS = 400
"""Less than pytest's own limit, so that whoever waits says for what."""

"""The parts of the soak: a listener that is broken in every way, and the books on what it does."""

"""What workers would call: a function that does nothing, where all can import it."""


def work(*_: object) -> None:
    """Stand for what a task would do; no worker takes it."""

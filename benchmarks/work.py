"""The function that workers would call. It does nothing, and all processes can import it."""


def work(*_: object) -> None:
    """Do nothing. No worker executes the tasks."""

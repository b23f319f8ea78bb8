"""Log records: what they carry besides their text, for whoever reads logs by program.

Each has `pgnotifier_event`, which names what happened, and the fields that docs/logging.md lists.
"""


def about(event: str, **fields: object) -> dict[str, object]:
    """Return the `extra` of a record.

    Args:
        event: What happened.
        fields: What there is to say of it; None is left out.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return {"pgnotifier_event": event, **known}


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 channel`, `2 channels`."""
    return f"{number} {one if number == 1 else many or one + 's'}"

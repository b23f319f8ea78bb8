"""Log records: the fields that they carry besides their text, for programs that read logs.

Each has `pgnotifier_event`, which names what happened, and the fields that docs/logging.md lists.
"""


def about(event: str, **fields: object) -> dict[str, object]:
    """Return the `extra` of a record.

    Args:
        event: What happened.
        fields: The details. None is left out.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return {"pgnotifier_event": event, **known}


def duration(seconds: float) -> str:
    """Return a duration in words: `under 0.1 s`, `1.5 s`, `75 s`, `40 min`, `30 h`."""
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"


def percent(fraction: float) -> str:
    """Return a fraction in percent: `under 0.1 %`, `2.5 %`, `100 %`."""
    if fraction < 0.0005:
        return "under 0.1 %"
    return f"{100 * fraction:.1f} %" if fraction < 0.0995 else f"{100 * fraction:.0f} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 channel`, `2 channels`."""
    return f"{number} {one if number == 1 else many or one + 's'}"

"""Autostart: whether a change of channels or subscriptions starts a notifier."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pgnotifier.dispatch import Dispatcher

_holders: list[object] = []


@contextmanager
def hold_starts() -> Iterator[None]:
    """Keep the notifiers of this process from starting by themselves, until the block ends.

    For commands, which import a module in order to find its notifiers.
    """
    holder = object()
    _holders.append(holder)
    try:
        yield
    finally:
        _holders.remove(holder)


def starts(
    autorun: bool | None,
    *,
    asked: bool,
    is_awaited: bool,
    dispatchers: Iterable[Dispatcher],
) -> bool:
    """Return whether a change starts a notifier that isn't running.

    One row fits whatever is asked; a dash stands for any value:

        | asked | awaited | held | autorun | dispatchers || starts |
        |-------|---------|------|---------|-------------||--------|
        | no    | -       | -    | -       | -           || no     |
        | yes   | yes     | -    | -       | -           || no     |
        | yes   | no      | yes  | -       | -           || no     |
        | yes   | no      | no   | no      | -           || no     |
        | yes   | no      | no   | yes     | -           || yes    |
        | yes   | no      | no   | None    | some        || no     |
        | yes   | no      | no   | None    | all         || yes    |

    asked: `autorun=` of the call, such as `subscribe()`.
    awaited: The calling code is a callback of the notifier, or other code that its listener waits
        for. Starting would undo a `stop()` that waits for that code.
    held: `hold_starts()` is in force.
    autorun: `Notifier(autorun=)`.
    dispatchers: How many of the notifier's dispatchers have `starts_listener`.
    """
    if not asked or is_awaited or _holders:
        return False
    if autorun is not None:
        return autorun
    return all(dispatcher.starts_listener for dispatcher in dispatchers)

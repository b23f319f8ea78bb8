"""Foreground: a process whose work it is to listen, until a signal comes.

What `celery pgnotifier` and `pgnotifier listen` have in common.
"""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from types import FrameType

from pgnotifier._health.health_server import HealthServer
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.suggestions import find_nearest
from pgnotifier.errors import ConfigurationError, PgNotifierError, in_one_line
from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.foreground")

SAME = 0.5
"""Seconds within which a further signal is the same one.

A supervisor may send it to the process and to its group, as `timeout` of the coreutils does.
"""


class _SignalledError(BaseException):
    """SIGTERM or SIGINT came; a BaseException, as Ctrl-C is, so that nobody swallows it.

    Attributes:
        at: When the first one came, by `time.monotonic()`.
    """

    at = -math.inf


def choose_channels(notifiers: Sequence[Notifier], channels: Iterable[str]) -> list[Notifier]:
    """Return the notifiers to start, left with the chosen channels only.

    Args:
        notifiers: Not running yet.
        channels: The names; all, if there are none.

    Raises:
        ConfigurationError: There is no subscription on one of them.
    """
    known = {name for notifier in notifiers for name in notifier.get_channels()}
    wanted = set(channels) or known
    for name in sorted(wanted - known):
        near = find_nearest(name, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        listed = ", ".join(map(repr, sorted(known)))
        raise ConfigurationError(f"no subscription on channel {name!r}{hint}; there are {listed}")
    for notifier in notifiers:
        notifier.remove_channels(notifier.get_channels() - wanted, autorun=False)
    return [notifier for notifier in notifiers if notifier.get_channels()]


def listen(
    notifiers: Sequence[Notifier],
    drain_timeout: float,
    health: HealthServer | None,
    on_error: Callable[[str], object],
) -> int:
    """Listen until SIGTERM or SIGINT comes, then deliver what was received.

    A second signal, half a second later or more, ends the process at once.

    Args:
        notifiers: Those to start, at least one.
        drain_timeout: Seconds that the deliveries may take.
        health: What answers probes meanwhile.
        on_error: Called with the reason, in one line, if one can't be started.

    Returns:
        The exit code: 0 if all was delivered.
    """
    failed = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_first_signal)
    try:
        if health is not None:
            health.start()
        _start(notifiers)
        while all(notifier.is_running() for notifier in notifiers):
            notifiers[0].wait(1.0)
        logger.error("a notifier stopped by itself; leaving", extra=about("ended_by_itself"))
        failed = True
    except _SignalledError as signalled:
        extra = about("draining", why=str(signalled))
        logger.info("%s: delivering what was received", signalled, extra=extra)
    except PgNotifierError as exc:
        on_error(f"Error: {in_one_line(exc)}")
        failed = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_second_signal)
    undelivered = _stop(notifiers, drain_timeout)
    if health is not None:
        health.stop()
    if not (failed or undelivered):
        logger.info("stopped; everything received was delivered", extra=about("drained"))
    return int(failed or undelivered > 0)


def set_waiting(notifiers: Iterable[Notifier], *, wait: bool) -> None:
    """Have notifiers wait for their servers at the start, unless the code or the user says else.

    Args:
        notifiers: Not running yet.
        wait: Whether the user lets them.
    """
    for notifier in notifiers:
        if not wait:
            notifier.startup_wait = False
        elif notifier.startup_wait is None:
            notifier.startup_wait = True


def _start(notifiers: Sequence[Notifier]) -> None:
    """Start them all, so that none waits for a server that another one waits for.

    Raises:
        PgNotifierError: Of the first that can't be.
    """
    for notifier in notifiers:
        if notifier.startup_wait:
            notifier.begin()
    waiting = list(notifiers)
    while waiting:
        for notifier in tuple(waiting):
            if not notifier.is_starting():
                notifier.start()
                waiting.remove(notifier)
        if waiting:
            waiting[0].wait(0.1)


def _stop(notifiers: Sequence[Notifier], timeout: float) -> int:
    """Stop them all at the same time; return how many deliveries were given up."""
    with ThreadPoolExecutor(len(notifiers)) as pool:
        return sum(pool.map(lambda notifier: notifier.stop(timeout), notifiers))


def _on_first_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _on_second_signal)
    _SignalledError.at = monotonic()
    raise _SignalledError(signal.Signals(number).name)


def _on_second_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if monotonic() - _SignalledError.at < SAME:
        return
    os.write(2, b"second signal: leaving at once; what was not delivered is given up\n")
    os._exit(1)

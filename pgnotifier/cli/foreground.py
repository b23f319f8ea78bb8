"""Run notifiers in the foreground until a signal comes, then drain and stop them.

`celery pgnotifier` and `pgnotifier listen` share this.
"""

import contextlib
import gc
import logging
import math
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from types import FrameType

from pgnotifier._health.health_server import HealthServer
from pgnotifier._runtime.aside import call_aside, is_without_thread
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.suggestions import find_nearest
from pgnotifier.errors import ConfigurationError, PgNotifierError, in_one_line
from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.foreground")

SAME = 0.5
"""Seconds during which another signal counts as the same one.

A supervisor may send a signal to the process and to its group, as `timeout` of coreutils does.
"""


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _SignalledError(BaseException):
    """A signal was received that ends the process.

    A BaseException, like KeyboardInterrupt, so that no `except Exception` swallows it.

    Attributes:
        at: When the first signal was received, by `time.monotonic()`.
    """

    at = -math.inf


def choose_channels(notifiers: Sequence[Notifier], channels: Iterable[str]) -> list[Notifier]:
    """Remove all channels but the chosen ones, and return the notifiers that have some left.

    Args:
        notifiers: Notifiers that aren't running yet.
        channels: The names of the channels. Empty: all channels.

    Raises:
        ConfigurationError: A channel isn't registered in any notifier.
    """
    known = {name for notifier in notifiers for name in notifier.get_channels()}
    wanted = set(channels) or known
    for name in sorted(wanted - known):
        near = find_nearest(name, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        listed = ", ".join(map(repr, sorted(known)))
        raise ConfigurationError(
            f"no subscription on channel {name!r}{hint}; the channels are {listed}"
        )
    for notifier in notifiers:
        notifier.remove_channels(notifier.get_channels() - wanted, autorun=False)
    return [notifier for notifier in notifiers if notifier.get_channels()]


def listen(
    notifiers: Sequence[Notifier],
    drain_timeout: float,
    health: HealthServer | None,
    on_error: Callable[[str], object],
) -> int:
    """Listen until SIGTERM, SIGINT or SIGHUP comes, then deliver what was received.

    SIGHUP is what a terminal sends when it is closed. Under `nohup`, it is ignored as usual.

    A second signal, half a second later or more, ends the process at once.

    Args:
        notifiers: The notifiers to start, at least one.
        drain_timeout: Seconds for delivering what was received.
        health: A server to start, which answers probes.
        on_error: Called with the reason, in one line, if something can't be started.

    Returns:
        The exit code: 0 if everything was delivered, else 1.
    """
    failed = False
    _handle_signals(_on_first_signal)
    try:
        if health is not None:
            health.start()
        _start(notifiers)
        gc.freeze()  # or each full collection would search all that the application has imported
        while all(notifier.is_running() for notifier in notifiers):
            notifiers[0].wait(1.0)
        logger.error("a notifier stopped by itself; exiting", extra=about("ended_by_itself"))
        failed = True
    except _SignalledError as signalled:
        extra = about("draining", why=str(signalled))
        logger.info("%s: delivering what was received", signalled, extra=extra)
    except PgNotifierError as exc:
        on_error(f"Error: {in_one_line(exc)}")
        failed = True
    _handle_signals(_on_second_signal)
    undelivered = stop_all(notifiers, drain_timeout)
    gc.unfreeze()
    if health is not None:
        health.stop()
    if not (failed or undelivered):
        logger.info("stopped; everything received was delivered", extra=about("drained"))
    return int(failed or undelivered > 0)


def set_waiting(notifiers: Iterable[Notifier], *, wait: bool) -> None:
    """Have notifiers wait for their servers at the start, unless their code or the user forbids it.

    Args:
        notifiers: Notifiers that aren't running yet.
        wait: Whether the user allows it. If not, `wait=` in the code is overridden.
    """
    for notifier in notifiers:
        if not wait:
            notifier.startup_wait = False
        elif notifier.startup_wait is None:
            notifier.startup_wait = True


def stop_all(notifiers: Sequence[Notifier], timeout: float) -> int:
    """Stop all notifiers in parallel; return how many deliveries were given up.

    Those for which no thread can be started are stopped one after another, and share the time.

    Args:
        notifiers: The notifiers, at least one.
        timeout: Seconds for all of them.
    """
    deadline = monotonic() + timeout
    aside = {one: call_aside("pgnotifier-stop", one.stop, timeout) for one in notifiers[1:]}
    here = [notifiers[0], *(one for one, done in aside.items() if is_without_thread(done))]
    undelivered = 0
    for done_with, one in enumerate(here):
        undelivered += one.stop(max(0.0, deadline - monotonic()) / (len(here) - done_with))
    return undelivered + sum(done.result() for one, done in aside.items() if one not in here)


def _start(notifiers: Sequence[Notifier]) -> None:
    """Start all notifiers, so that waiting for one's server doesn't delay the others.

    Raises:
        PgNotifierError: The error of the first that can't be started.
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


def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _on_first_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    _handle_signals(_on_second_signal)
    _SignalledError.at = monotonic()
    raise _SignalledError(signal.Signals(number).name)


def _on_second_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if monotonic() - _SignalledError.at < SAME:
        return
    with contextlib.suppress(OSError):  # it is closed, or its disk is full
        os.write(2, b"second signal: exiting at once; undelivered notifications are given up\n")
    os._exit(1)

"""Import the modules that a command line names, and find their notifiers and channels."""

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pgnotifier._notifier.autostart import hold_starts
from pgnotifier._runtime.redaction import redact
from pgnotifier.errors import ConfigurationError
from pgnotifier.notifier import Notifier


def find_notifiers(specs: Iterable[str]) -> list[Notifier]:
    """Import modules, and return their notifiers. None of them starts by itself.

    Args:
        specs: `module:name`, or `module` for a notifier called `notifier`.

    Raises:
        ConfigurationError: A module or a notifier in it can't be found, or a notifier has no
            channel.
    """
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    with hold_starts():  # else a notifier for callbacks in process would start when it subscribes
        return [_find(spec) for spec in specs]


def show_traceback(exc: Exception) -> None:
    """Print the traceback of a user's module, without the frames of pgnotifier and importlib.

    An error of the module may contain a password, which is hidden.
    """
    found = exc.__traceback__
    while found is not None and _is_on_the_way(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    lines = traceback.format_exception(exc.with_traceback(found))
    print(redact("".join(lines)), end="", file=sys.stderr)


def _is_on_the_way(filename: str) -> bool:
    ours, imports = Path(__file__).parents[1], Path(importlib.__file__).parent
    return filename.startswith("<frozen importlib") or not {ours, imports}.isdisjoint(
        Path(filename).parents
    )


def _find(spec: str) -> Notifier:
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{name or 'notifier'}".split(".")):
        raise ConfigurationError(f"a notifier must be given as module:name, not {spec!r}")
    try:
        notifier: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # a module that the user's module imports
        raise ConfigurationError(
            f"there is no module {module_name!r}; run pgnotifier in the directory that contains it"
        ) from None
    for part in (name or "notifier").split("."):
        notifier = getattr(notifier, part, None)
    if not isinstance(notifier, Notifier):
        raise ConfigurationError(
            f"module {module_name!r} has no Notifier called {name or 'notifier'!r}"
        )
    if not notifier.get_channels():
        raise ConfigurationError(
            f"{spec} has no channel. Subscribe to one in that module, or in one it imports:\n\n"
            '    notifier.subscribe("resize", "image_uploaded", resize)'
        )
    return notifier


def find_channels(notifier: Notifier, *, durable: bool) -> Iterator[str]:
    """Yield the channels with durable subscriptions, or those that the notifier listens to."""
    subscriptions = notifier.get_subscriptions()
    for channel in notifier.get_channels():
        kinds = {
            notifier.get_durability(id, channel) is not None
            for id in subscriptions.get(channel, ())  # noqa: A001 - the argument's name
        } or {False}
        if durable in kinds:
            yield channel

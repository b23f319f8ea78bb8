"""Finding: the notifiers that a command line names."""

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgnotifier._runtime.autostart import hold_starts
from pgnotifier.errors import ConfigurationError
from pgnotifier.notifier import Notifier


def find_notifiers(specs: Iterable[str]) -> list[Notifier]:
    """Return the notifiers of modules, which are imported; none of them starts by itself.

    Args:
        specs: `module:name`, or `module` for one that is called `notifier`.

    Raises:
        ConfigurationError: There is no such module, or no notifier of that name, or nobody
            has subscribed to anything.
    """
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    with hold_starts():  # a plain callback's notifier starts as soon as it has a channel
        return [_find(spec) for spec in specs]


def show_traceback(exc: Exception) -> None:
    """Print where a user's module went wrong, without the way that led there from here."""
    found = exc.__traceback__
    while found is not None and _is_on_the_way(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    traceback.print_exception(exc.with_traceback(found))


def _is_on_the_way(filename: str) -> bool:
    ours, imports = Path(__file__).parents[1], Path(importlib.__file__).parent
    return filename.startswith("<frozen importlib") or not {ours, imports}.isdisjoint(
        Path(filename).parents
    )


def _find(spec: str) -> Notifier:
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{name or 'notifier'}".split(".")):
        raise ConfigurationError(f"{spec!r} is not of the form module:name")
    try:
        notifier: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # something that the module itself needs
        raise ConfigurationError(
            f"there is no module {module_name!r}; call pgnotifier in the directory that it is in"
        ) from None
    for part in (name or "notifier").split("."):
        notifier = getattr(notifier, part, None)
    if not isinstance(notifier, Notifier):
        raise ConfigurationError(
            f"module {module_name!r} has no Notifier called {name or 'notifier'!r}"
        )
    if not notifier.get_channels():
        raise ConfigurationError(
            f"{spec} has no channel. Subscribe to one in a module that it imports:\n\n"
            '    notifier.subscribe("resize", "image_uploaded", resize)'
        )
    return notifier

"""Replace Celery's locks in a forked child, because a thread of the parent may hold them.

Subscribing needs these locks. Celery holds them briefly whenever an app's `Task` or `annotations`
are read, and while the app is finalized:
https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.utils.objects.html
"""

import os
import threading
import weakref
from typing import Any

from kombu.utils.objects import cached_property

_apps: "weakref.WeakSet[Any]" = weakref.WeakSet()


def renew_in_children(app: Any) -> None:
    """Give forked children new locks for an app."""
    _apps.add(app)


def _in_child() -> None:
    for app in tuple(_apps):
        app._finalize_mutex = threading.RLock()  # noqa: SLF001 - there is no public way
        for kind in type(app).__mro__:
            for found in vars(kind).values():
                if isinstance(found, cached_property) and hasattr(found, "lock"):
                    vars(found)["lock"] = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

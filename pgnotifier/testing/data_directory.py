"""Make the data directories of PostgreSQL servers: with initdb, or as a copy of what it made."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from pgnotifier.testing.process import SupervisedProcess

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class DataDirectories:
    """Makes data directories; from the third on, they are copies.

    initdb takes most of the time that a new server needs. So the second data directory is kept as
    a template, until this process ends. A process that starts only one server has no use for one.

    `_lock` guards `_made` and `_templates`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: set[Hashable] = set()
        self._templates: dict[Hashable, SupervisedProcess | None] = {}

    def make(self, process: SupervisedProcess, kind: Hashable, initdb: Sequence[str]) -> None:
        """Make the directory `data` in the directory of a process.

        Args:
            process: The process, with the user that the directory belongs to.
            kind: What the content depends on: two directories of one kind are interchangeable.
            initdb: The command that makes it.
        """
        kind = (kind, process.user)
        template = self._templates.get(kind)
        if template is not None and _is_usable(template):
            _copy(template, process)
            return
        process.run(initdb)
        with self._lock:
            is_second = kind in self._made and kind not in self._templates
            self._made.add(kind)
            if is_second:
                self._templates[kind] = None  # no other thread makes one
        if is_second:
            self._templates[kind] = _keep(process)


def _keep(process: SupervisedProcess) -> SupervisedProcess:
    template = SupervisedProcess(steps=(), unprivileged=process.user is not None)
    # Its directory is deleted even if this process is killed; at an ordinary end, before that.
    atexit.register(template.close)
    _copy(process, template)
    return template


def _copy(source: SupervisedProcess, target: SupervisedProcess) -> None:
    target.run(["cp", "-R", str(source.directory / "data"), str(target.directory / "data")])


def _is_usable(template: SupervisedProcess) -> bool:
    # The parent of a forked process may end, and take the template along.
    return template.is_ours() and (template.directory / "data" / "PG_VERSION").is_file()


directories = DataDirectories()
"""Those of this process."""

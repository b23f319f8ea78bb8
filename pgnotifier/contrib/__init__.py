"""Frameworks that pgnotifier delivers to: each in its own package, with an extra of its name."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgnotifier.errors import PgNotifierError


class ExtraNotInstalledError(PgNotifierError, ModuleNotFoundError):
    """A package of `pgnotifier.contrib` was imported without what its extra brings."""


@contextmanager
def naming_extra(extra: str) -> Iterator[None]:
    """Name the extra to install if one of its modules can't be imported in the `with` block.

    Raises:
        ExtraNotInstalledError: A module of another project is missing.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if not missing or missing.partition(".")[0] == "pgnotifier":
            raise
        raise ExtraNotInstalledError(
            f"pgnotifier.contrib.{extra} needs {missing}, which isn't installed. "
            f"Run: pip install 'pgnotifier[{extra}]'",
            name=missing,
        ) from exc

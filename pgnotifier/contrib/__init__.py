"""Integrations with frameworks: each in a package of its own, with an extra of the same name."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgnotifier.errors import PgNotifierError


class ExtraNotInstalledError(PgNotifierError, ModuleNotFoundError):
    """A package of `pgnotifier.contrib` was imported, but its extra isn't installed."""


@contextmanager
def naming_extra(extra: str) -> Iterator[None]:
    """Turn a failed import of a framework into an error that names the extra to install.

    Args:
        extra: The name of the extra, which is that of the package.

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

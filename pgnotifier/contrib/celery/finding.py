"""Find the app that a command line names, and its notifiers."""

from typing import Any

from celery.app.utils import find_app as _find_app

from pgnotifier._connection.parameters import MissingParameters, Parameters, make_parameters
from pgnotifier._notifier.autostart import hold_starts
from pgnotifier.contrib.celery.configured import NO_DSN
from pgnotifier.contrib.celery.dispatcher import notifiers_of
from pgnotifier.contrib.celery.settings import read_setting
from pgnotifier.errors import ConfigurationError
from pgnotifier.notifier import Notifier


def find_app(name: str) -> tuple[Any, list[Notifier], Parameters]:
    """Import an app and its modules, as a worker does; none of its notifiers starts.

    Args:
        name: What `celery -A` takes: `shop`, `shop.celery:app`.

    Returns:
        The app, its notifiers, and the connection parameters of the first; or those of the
        setting `pgnotifier_dsn` if it has none.

    Raises:
        ConfigurationError: There is no such app, or a setting is invalid.
    """
    with hold_starts():
        app: Any = _find(name)
        app.set_current()
        app.set_default()
        app.loader.import_default_modules()
        app.finalize(auto=True)
    notifiers = notifiers_of(app)
    if notifiers:
        return app, notifiers, notifiers[0].parameters
    dsn = read_setting(app, "dsn")
    return app, [], make_parameters(dsn) if dsn else MissingParameters(NO_DSN)


def _find(name: str) -> Any:
    package = name.partition(":")[0]
    try:
        return _find_app(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{package}.".startswith(f"{exc.name}."):
            raise  # a module that the user's module imports
        raise ConfigurationError(
            f"there is no module {package!r}; run pgnotifier in the directory that contains it"
        ) from None
    except ValueError as exc:  # kombu hides that of the module behind one of its own
        raise exc.__context__ if isinstance(exc.__context__, ValueError) else exc from None
    except AttributeError as exc:
        if not _is_from_celery(exc):
            raise
        raise ConfigurationError(f"{name!r} has no Celery app; name it as module:app") from None


def _is_from_celery(exc: BaseException) -> bool:
    """Return whether Celery or kombu has raised an exception, and not the user's module."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    raised_by = "" if at is None else str(at.tb_frame.f_globals.get("__name__"))
    return raised_by.partition(".")[0] in ("celery", "kombu")

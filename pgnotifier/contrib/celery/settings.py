"""The settings that an app's configuration may hold, each beginning with `pgnotifier_`.

They come from wherever Celery's own do: `app.conf`, a module, an object, with a namespace or
without. An environment variable of the same name in capitals wins, as with `CELERY_BROKER_URL`.
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from celery.app import utils
from kombu.utils.url import url_to_parts

from pgnotifier.buffer import BUFFER_BYTES
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

PREFIX = "pgnotifier_"

# `celery report` and `celery inspect conf` show all settings but those of such names.
# https://docs.celeryq.dev/en/stable/reference/cli.html#celery-report
_celery: Any = utils
_celery.HIDDEN_SETTINGS = re.compile(
    f"{_celery.HIDDEN_SETTINGS.pattern}|{PREFIX}dsn", _celery.HIDDEN_SETTINGS.flags
)

_PARSED = re.compile("(amqps?|pyamqp|rediss?|sentinel)://")
"""The URLs that kombu and Celery parse; some other transports do so themselves."""


class Setting(NamedTuple):
    """What holds if it isn't set, of which types it is, and how it is read from a text."""

    default: Any
    types: tuple[Any, ...]  # Callable is no type, to type checkers
    parse: Callable[[str], Any]


SETTINGS: Mapping[str, Setting] = {
    "dsn": Setting(None, (str, Mapping, Callable), str),
    "task_prefix": Setting("pgnotifier.", (str,), str),
    "standby": Setting(None, (str,), str),
    "buffer_size": Setting(100_000, (int,), int),
    "buffer_bytes": Setting(BUFFER_BYTES, (int,), int),
    "overflow": Setting("block", (str,), str),
    "heartbeat": Setting(15.0, (int, float), float),
    "heartbeat_timeout": Setting(5.0, (int, float), float),
    "drain_timeout": Setting(30.0, (int, float), float),
}


def read_setting(app: Any, name: str) -> Any:
    """Return the value of one setting, without its prefix.

    Raises:
        ConfigurationError: An environment variable can't be read as what it should be.
        ArgumentTypeError: The app's configuration has another type of value.
    """
    setting = SETTINGS[name]
    variable = f"{PREFIX}{name}".upper()
    if (text := os.environ.get(variable)) is not None:
        try:
            return setting.parse(text)
        except ValueError:
            # Not its value: no secret is to get into an error.
            kind = setting.types[-1].__name__
            raise ConfigurationError(f"the environment variable {variable} is no {kind}") from None
    value = app.conf.get(f"{PREFIX}{name}")
    if value is None:
        return setting.default
    if not isinstance(value, setting.types) or isinstance(value, bool):
        kinds = " or ".join(kind.__name__ for kind in setting.types)
        raise ArgumentTypeError(
            f"the setting {PREFIX}{name} is of type {type(value).__name__}, and should be {kinds}"
        )
    return value


def check_settings(app: Any) -> None:
    """Check the app's URLs, and that it has no setting that begins with ours and isn't ours.

    Raises:
        ConfigurationError: It has, and the nearest name is in the message; or as `check_urls`.
    """
    check_urls(app)
    for shown, name in _find_ours(app):
        ours = name.removeprefix(PREFIX)
        if ours not in SETTINGS or ours == name:
            near = difflib.get_close_matches(ours.lower().removeprefix(PREFIX), SETTINGS, 1)
            known = ", ".join(f"{PREFIX}{one}" for one in SETTINGS)
            hint = f"did you mean {PREFIX + near[0]!r}?" if near else f"there are {known}"
            raise ConfigurationError(f"{shown!r} is not a setting of pgnotifier; {hint}")


def check_urls(app: Any) -> None:
    """Check that the URLs of the broker and the result backend can be parsed.

    Whoever uses them raises an error that shows a part of the password.

    Raises:
        ConfigurationError: One of them can't be.
    """
    for name in ("broker_write_url", "result_backend"):
        given = getattr(app.conf, name)
        urls = given if isinstance(given, list | tuple) else [given]
        for url in (part for text in urls if isinstance(text, str) for part in text.split(";")):
            if not _PARSED.match(url):
                continue
            try:
                url_to_parts(url)
            except ValueError:
                raise ConfigurationError(
                    f"the setting {name} is no URL: in a user's name or a password, characters "
                    "such as / ? # [ ] ; have to be percent-encoded, as urllib.parse.quote(…, "
                    "safe='') does"
                ) from None


def _find_ours(app: Any) -> Iterator[tuple[str, str]]:
    """Yield the settings that begin with ours: as they stand there, and without a namespace."""
    app.conf.get(PREFIX)  # what is still to be loaded
    namespace = f"{app.namespace}_".lower() if app.namespace else ""
    for source in app.conf.maps:
        for key in source:
            if not isinstance(key, str):
                continue
            if namespace and key.lower().startswith(f"{namespace}{PREFIX}"):
                yield key, key[len(namespace) :].lower()
            elif key.lower().startswith(PREFIX):
                yield key, key

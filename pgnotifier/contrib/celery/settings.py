"""Read and check the app's settings that begin with `pgnotifier_`.

They are read from the same places as Celery's own: `app.conf`, a module or an object, with or
without a namespace. An environment variable of the same name in capitals takes precedence.
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from celery.app import utils
from kombu.utils.url import url_to_parts

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.errors import ConfigurationError
from pgnotifier.settings import OUTBOX_SETTINGS, Setting, is_text
from pgnotifier.settings import SETTINGS as CORE_SETTINGS

PREFIX = "pgnotifier_"

# `celery report` and `celery inspect conf` show all settings except those with such names.
# https://docs.celeryq.dev/en/stable/reference/cli.html#celery-report
_celery: Any = utils
_celery.HIDDEN_SETTINGS = re.compile(
    f"{_celery.HIDDEN_SETTINGS.pattern}|{PREFIX}dsn", _celery.HIDDEN_SETTINGS.flags
)

_PARSED = re.compile("(amqps?|pyamqp|rediss?|sentinel)://")
"""The URLs that kombu and Celery parse. Some other transports parse their own."""


_NAMES = (
    *("standby", "buffer_size", "buffer_bytes", "overflow", "heartbeat", "heartbeat_timeout"),
    *("drain_timeout", "answers", "remote_commands"),
)
SETTINGS: Mapping[str, Setting] = {
    "dsn": Setting(
        "a connection string, a dict of libpq parameters, or a callable that returns one",
        lambda value: isinstance(value, str | Mapping) or callable(value),
        is_secret=True,
    ),
    "task_prefix": Setting("a str", is_text, "pgnotifier."),
    **OUTBOX_SETTINGS,
    **{name: CORE_SETTINGS[name] for name in _NAMES},
}


def read_setting(app: Any, name: str) -> Any:
    """Return the value of a setting.

    Args:
        app: The app.
        name: The name of the setting, without the prefix.

    Raises:
        ConfigurationError: An environment variable can't be parsed, or a value is out of range.
        ArgumentTypeError: A value in the app's configuration is of the wrong type.
    """
    setting = SETTINGS[name]
    shown = f"{PREFIX}{name}"
    if (text := os.environ.get(shown.upper())) is not None:
        return setting.read(f"the environment variable {shown.upper()}", text)
    value = app.conf.get(shown)
    if value is None:
        return setting.default
    setting.check(f"the setting {shown}", value)
    return value


def check_settings(app: Any) -> None:
    """Check the app's URLs, and that each setting with the prefix exists.

    Raises:
        ConfigurationError: A setting doesn't exist (the message suggests the nearest name), or a
            URL can't be parsed.
    """
    check_urls(app)
    for shown, name in _find_ours(app):
        ours = name.removeprefix(PREFIX)
        if ours not in SETTINGS or ours == name:
            hint = suggest(ours.lower().removeprefix(PREFIX), SETTINGS, prefix=PREFIX)
            raise ConfigurationError(f"{shown!r} is not a setting of pgnotifier; {hint}")


def check_urls(app: Any) -> None:
    """Check that the URLs of the broker and the result backend can be parsed.

    Celery and kombu would raise an error that shows a part of the password.

    Raises:
        ConfigurationError: One of them can't be parsed.
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
                    f"the setting {name} can't be parsed as a URL: in a user name or a password, "
                    "percent-encode characters such as / ? # [ ] ; with urllib.parse.quote(…, "
                    "safe='')"
                ) from None


def _find_ours(app: Any) -> Iterator[tuple[str, str]]:
    """Yield the settings with the prefix: their full names, and without the namespace."""
    app.conf.get(PREFIX)  # load the configuration if that isn't done yet
    namespace = f"{app.namespace}_".lower() if app.namespace else ""
    for source in app.conf.maps:
        for key in source:
            if not isinstance(key, str):
                continue
            if namespace and key.lower().startswith(f"{namespace}{PREFIX}"):
                yield key, key[len(namespace) :].lower()
            elif key.lower().startswith(PREFIX):
                yield key, key

"""Make command-line options from the table of settings."""

from collections.abc import Callable
from typing import Any

import click

from pgnotifier.errors import PgNotifierError
from pgnotifier.settings import SETTINGS


# click.ParamType is generic only in newer versions.
class SettingType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The click type of a setting's values."""

    name = "setting"

    def __init__(self, setting: str) -> None:
        self._setting = SETTINGS[setting]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or exit with the reason why it is invalid."""
        try:
            return self._setting.read("it", value) if isinstance(value, str) else value
        except PgNotifierError as exc:
            self.fail(str(exc), param, ctx)


def setting_option(
    name: str, shown_default: str = "", make: Callable[..., Any] = click.option, **settings: Any
) -> Callable[[Any], Any]:
    """Return the option of a setting.

    Args:
        name: The setting's name.
        shown_default: The default that the help shows, if any.
        make: Returns the decorator for an option.
        settings: Further arguments for `make`.
    """
    setting = SETTINGS[name]
    made: Callable[[Any], Any] = make(
        f"--{name.replace('_', '-')}",
        type=SettingType(name),
        metavar=setting.metavar,
        help=setting.help + (f"  Default: {shown_default}." if shown_default else ""),
        **settings,
    )
    return made

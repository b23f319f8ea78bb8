"""The table of settings: which values each setting takes, and what its errors say."""

import pytest

from pgnotifier.errors import ArgumentTypeError, ConfigurationError
from pgnotifier.settings import CENTURY, DAY, SETTINGS, Setting, check_settings, is_number, seconds

UP_TO_A_DAY = "above 0 and at most 86400 (a day)"
UP_TO_A_CENTURY = "at least 0 and at most 3155760000 (a century)"


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("heartbeat", "x", ArgumentTypeError, "heartbeat must be a number of seconds, not 'x'"),
        ("heartbeat", True, ArgumentTypeError, "heartbeat must be a number of seconds, not True"),
        ("heartbeat", None, ArgumentTypeError, "heartbeat must be a number of seconds, not None"),
        ("heartbeat", 0, ConfigurationError, "must be above 0 and at most 86400 (a day), not 0"),
        ("heartbeat_timeout", float("nan"), ConfigurationError, "must be above 0 .*, not nan"),
        ("buffer_size", 5.0, ArgumentTypeError, "buffer_size must be an integer, not 5.0"),
        ("buffer_bytes", 7, ConfigurationError, "must be at least 7999 (one payload), not 7"),
        ("overflow", "drop", ConfigurationError, "must be 'block', 'drop_oldest' or 'drop_newest'"),
        ("overflow", ["block"], ArgumentTypeError, "overflow must be 'block', 'drop_oldest' or"),
        ("standby", 1, ArgumentTypeError, "standby must be a name, not 1"),
        ("standby", "", ConfigurationError, "standby must be a name, or None, not ''"),
        ("drain_timeout", -1, ConfigurationError, "drain_timeout must be at least 0, not -1"),
        (
            "health_port",
            65536,
            ConfigurationError,
            "must be from 1 to 65535, not 65536",
        ),
        (
            "health_port",
            "80",
            ArgumentTypeError,
            "must be a port, an integer, not '80'",
        ),
        ("wait", "yes", ArgumentTypeError, "wait must be True, False or a number of seconds"),
        ("wait", -1, ConfigurationError, "wait must be True, False or a number of seconds, at"),
    ],
)
def test_what_cannot_be(name, value, error, says):
    """An error names the setting, the values that it takes, and the value given."""
    with pytest.raises(error) as refused:
        check_settings(**{name: value})
    assert says.partition(".*")[0] in str(refused.value)
    assert says.partition(".*")[2] in str(refused.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_defaults(name):
    """Each setting accepts its default, and has an explanation."""
    check_settings(**{name: SETTINGS[name].default})
    assert SETTINGS[name].explain().endswith(".")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("heartbeat", "2.5", 2.5),
        ("buffer_size", "7", 7),
        ("overflow", "drop_oldest", "drop_oldest"),
        ("drain_timeout", "0", 0.0),
        ("health_port", "8080", 8080),
    ],
)
def test_texts(name, text, value):
    """A text, for example from an environment variable, is converted to a value."""
    assert SETTINGS[name].read("it", text) == value


@pytest.mark.parametrize(("name", "text"), [("buffer_size", "s3cret"), ("heartbeat", "s3cret")])
def test_a_text_that_is_none_is_not_shown(name, text):
    """An error doesn't show a text that can't be converted, as it may be a secret."""
    with pytest.raises(ConfigurationError, match=r"^THAT must be") as refused:
        SETTINGS[name].read("THAT", text)
    assert text not in str(refused.value)


def test_secrets():
    """For a setting that may hold a password, errors show only the type of the value."""
    setting = Setting("a str", lambda value: isinstance(value, str), is_secret=True)
    with pytest.raises(ArgumentTypeError, match=r"^dsn must be a str, not dict$"):
        setting.check("dsn", {"password": "s3cret"})


@pytest.mark.parametrize(
    ("allowed", "value", "expected"),
    [
        (seconds(most=DAY), 1, None),
        (seconds(most=DAY), 0.001, None),
        (seconds(most=DAY), DAY, None),
        (seconds(most=DAY), 0, UP_TO_A_DAY),
        (seconds(most=DAY), -1, UP_TO_A_DAY),
        (seconds(most=DAY), DAY + 1, UP_TO_A_DAY),
        (seconds(most=DAY), float("nan"), UP_TO_A_DAY),
        (seconds(most=DAY), float("inf"), UP_TO_A_DAY),
        (seconds(most=DAY), "1", "a number of seconds"),
        (seconds(most=DAY), True, "a number of seconds"),
        (seconds(most=DAY), None, "a number of seconds"),
        (seconds(most=CENTURY, allows_zero=True), 0, None),
        (seconds(most=CENTURY, allows_zero=True), -0.5, UP_TO_A_CENTURY),
        (seconds(most=CENTURY, allows_zero=True), float("inf"), UP_TO_A_CENTURY),
        (seconds(allows_zero=True), float("inf"), None),
        (seconds(allows_zero=True), -1, "at least 0"),
        (seconds(), 0, "above 0"),
    ],
)
def test_expected_seconds(allowed, value, expected):
    """A value in the range has no problem; any other gets the range or the type."""
    assert allowed.find_expected(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (1.5, True), (True, False), ("1", False), (1j, False)]
)
def test_is_number(value, expected):
    """A bool is not a number, and neither is a str or a complex."""
    assert is_number(value) is expected

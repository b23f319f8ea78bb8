"""The settings `pgnotifier_*`: where they come from, and what is refused."""

import types

import pytest
from celery import Celery

from pgnotifier import ArgumentTypeError, ConfigurationError
from pgnotifier.contrib.celery.settings import SETTINGS, check_settings, read_setting


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(f"PGNOTIFIER_{name}".upper(), raising=False)


def configured(source=None, namespace=None, **conf):
    app = Celery("shop", broker="memory://", set_as_current=False)
    if source is not None:
        app.config_from_object(types.SimpleNamespace(**source), namespace=namespace)
    app.conf.update(conf)
    return app


APPS = {
    "conf": lambda: configured(pgnotifier_dsn="dbname=x", pgnotifier_buffer_size=5),
    "object": lambda: configured({"pgnotifier_dsn": "dbname=x", "pgnotifier_buffer_size": 5}),
    "namespace": lambda: configured(
        {"CELERY_PGNOTIFIER_DSN": "dbname=x", "CELERY_PGNOTIFIER_BUFFER_SIZE": 5}, "CELERY"
    ),
}


@pytest.mark.parametrize("where", APPS)
def test_wherever_celery_looks(where):
    """Settings are found in `app.conf`, in a configuration object, and behind a namespace."""
    app = APPS[where]()
    check_settings(app)
    assert read_setting(app, "dsn") == "dbname=x"
    assert read_setting(app, "buffer_size") == 5
    assert read_setting(app, "overflow") == "block"


def test_environment_variables_win(monkeypatch):
    """Environment variables override the configuration; numbers in them are parsed."""
    monkeypatch.setenv("PGNOTIFIER_DSN", "dbname=env")
    monkeypatch.setenv("PGNOTIFIER_BUFFER_SIZE", "7")
    monkeypatch.setenv("PGNOTIFIER_DRAIN_TIMEOUT", "2.5")
    app = APPS["conf"]()
    names = ("dsn", "buffer_size", "drain_timeout")
    assert [read_setting(app, name) for name in names] == ["dbname=env", 7, 2.5]


def test_a_variable_that_cannot_be_read(monkeypatch):
    """If a variable can't be parsed, the error names it but doesn't show its value."""
    monkeypatch.setenv("PGNOTIFIER_BUFFER_SIZE", "s3cret")
    with pytest.raises(ConfigurationError, match="_BUFFER_SIZE must be an integer") as refused:
        read_setting(configured(), "buffer_size")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("value", [True, "5", 5.5])
def test_a_value_of_another_type(value):
    """A value of the wrong type is refused, and the error names the setting."""
    app = configured(pgnotifier_buffer_size=value)
    with pytest.raises(ArgumentTypeError, match=r"pgnotifier_buffer_size.*int"):
        read_setting(app, "buffer_size")


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (lambda: configured(pgnotifier_dns="x"), "'pgnotifier_dns'.*'pgnotifier_dsn'"),
        (lambda: configured({"PGNOTIFIER_DSN": "x"}), "'PGNOTIFIER_DSN'.*'pgnotifier_dsn'"),
        (
            lambda: configured({"CELERY_PGNOTIFIER_TASKPREFIX": "x"}, "CELERY"),
            "'CELERY_PGNOTIFIER_TASKPREFIX'.*'pgnotifier_task_prefix'",
        ),
        (lambda: configured(pgnotifier_zzz="x"), "there are pgnotifier_dsn"),
    ],
)
def test_unknown_settings(app, says):
    """An unknown setting with pgnotifier's prefix is refused, and the error names a known one."""
    with pytest.raises(ConfigurationError, match=says):
        check_settings(app())

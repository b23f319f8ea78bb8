"""Have Celery tasks published in transactions, as `PGNOTIFIER["OUTBOX"]` says."""

from django.core.exceptions import ImproperlyConfigured

from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.notifiers import INSTALLS, find_celery_app


def enable_outbox() -> None:
    """Have tasks published in transactions, if `PGNOTIFIER["OUTBOX"]` says so.

    Raises:
        ImproperlyConfigured: There is no Celery app, or Celery isn't installed.
        PgNotifierError: `PGNOTIFIER["CELERY_APP"]` isn't an app.
    """
    aliases = conf.outbox_aliases()
    if not aliases:
        return
    try:
        from pgnotifier.contrib.django.task_outbox import use_outbox
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            f"PGNOTIFIER['OUTBOX'] is set, but {exc.name} isn't installed: pip install "
            f"{INSTALLS['celery']}"
        ) from exc
    use_outbox(find_celery_app("PGNOTIFIER['OUTBOX'] is set"), aliases)

"""Settings of the project; the environment has its addresses, and the way of taking orders."""

import os

from psycopg.conninfo import conninfo_to_dict

_given = conninfo_to_dict(os.environ["SHOP_DSN"])

SECRET_KEY = "a test's"
USE_TZ = True
INSTALLED_APPS = [
    "pgnotifier.contrib.django",
    "pgnotifier.contrib.django.durable",
    "tests.faults.django_shop",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _given["dbname"],
        "USER": _given.get("user", ""),
        "HOST": _given.get("host", ""),
        "PORT": _given.get("port", ""),
        "OPTIONS": {"options": "-c synchronous_commit=off"},
    }
}
CELERY_BROKER_URL = os.environ["SHOP_BROKER"]
CELERY_TASK_DEFAULT_QUEUE = os.environ["SHOP_WAY"]
PGNOTIFIER = {"OUTBOX": os.environ["SHOP_WAY"] == "django"}

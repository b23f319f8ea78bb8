"""Django's settings. Those for pgnotifier are an installed app, and the dict PGNOTIFIER."""

import os
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

BASE_DIR = Path(__file__).parents[1]


def _database(variable: str) -> dict[str, Any]:
    """Return Django's settings for a database, from a connection string in the environment."""
    given = conninfo_to_dict(os.environ.get(variable, "dbname=bookshop"))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given.get("dbname", ""),
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        "HOST": given.get("host", ""),
        "PORT": given.get("port", ""),
    }


SECRET_KEY = os.environ.get("BOOKSHOP_SECRET_KEY", "an example's, and no secret")
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "bookshop.urls"
USE_TZ = True
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "pgnotifier.contrib.django",
    "orders",
    "audit",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The app `audit` has its own database.
DATABASES = {"default": _database("BOOKSHOP_DSN"), "audit": _database("BOOKSHOP_AUDIT_DSN")}
DATABASE_ROUTERS = ["bookshop.routers.AuditRouter"]

CELERY_BROKER_URL = os.environ.get("BOOKSHOP_BROKER", "redis://localhost:6379/0")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

PGNOTIFIER = {"DISPATCHER": "celery"}

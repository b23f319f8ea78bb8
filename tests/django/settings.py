"""Settings of a project with two PostgreSQL databases; the environment has their addresses."""

import os

from psycopg.conninfo import conninfo_to_dict


def _database(variable):
    given = conninfo_to_dict(os.environ[variable])
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "USER": given.get("user", ""),
        "HOST": given.get("host", ""),
        "PORT": given.get("port", ""),
    }


SECRET_KEY = "a test's"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast
USE_TZ = True
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "pgnotifier.contrib.django",
    "pgnotifier.contrib.django.durable",
    *(["pgtrigger"] if os.environ.get("WITH_PGTRIGGER") else []),
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
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
DATABASES = {
    "default": _database("TEST_DJANGO_DSN"),
    "second": _database("TEST_DJANGO_SECOND_DSN"),
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
DATABASE_ROUTERS = ["shop.routers.SecondRouter"]
TASKS = {"default": {"BACKEND": os.environ.get("TASKS_BACKEND", "")}}
if not TASKS["default"]["BACKEND"]:
    import django

    package = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
    TASKS["default"]["BACKEND"] = f"{package}.backends.immediate.ImmediateBackend"
    TASKS["dummy"] = {"BACKEND": f"{package}.backends.dummy.DummyBackend", "QUEUES": []}
    if django.VERSION < (6, 0):
        INSTALLED_APPS.append("django_tasks")
PGNOTIFIER = {"DISPATCHER": "inline"}

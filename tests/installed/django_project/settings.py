"""The project's settings; environment variables name the database."""

import os

SECRET_KEY = "shop"
INSTALLED_APPS = ["django.contrib.contenttypes", "pgnotifier.contrib.django", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["SHOP_DBNAME"],
        "USER": os.environ["SHOP_USER"],
        "HOST": os.environ["SHOP_HOST"],
        "PORT": os.environ["SHOP_PORT"],
        "PASSWORD": os.environ.get("SHOP_PASSWORD", ""),
    }
}
USE_TZ = True

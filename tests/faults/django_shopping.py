"""The processes of a Django project that takes orders and relays their tasks, and that are killed.

See `tests.faults.shopping`: its worker executes the tasks.
"""

import os
import sys
from contextlib import suppress
from functools import partial

from tests.faults.killed import kill_at_random
from tests.faults.shopping import Web, import_all, stepping_web, web

SCRIPT = "from tests.faults.django_shopping import main; main()"


class DjangoWeb(Web):
    """A web process of the project: it takes orders, half of which are rolled back."""

    def __init__(self, dsn, broker, way):
        self._way = way
        self._errors = () if way == "django" else (Exception,)
        self._take = getattr(self, f"_take_{way}")

    def _next(self):
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval(%s)", [self._way])
            return cursor.fetchone()[0]

    def _take_django(self, number, is_cancelled):
        from tests.faults.django_shop.models import invoice

        self._take_with(invoice.delay, number, is_cancelled)

    def _take_on_commit(self, number, is_cancelled):
        from tests.faults.django_shop.models import invoice

        self._take_with(invoice.delay_on_commit, number, is_cancelled)

    def _take_with(self, publish, number, is_cancelled):
        from django.db import transaction

        from tests.faults.django_shop.models import Order

        with suppress(KeyError), transaction.atomic():
            Order.objects.create(way=self._way, number=number)
            publish(self._way, number)
            if is_cancelled:
                raise KeyError(number)


def relay(seconds):
    """Run `manage.py pgnotifier` in processes that are killed after so many seconds at most."""
    kill_at_random(_relay, 1, float(seconds))


def _relay(tick):
    from django.core.management import call_command

    tick()
    call_command("pgnotifier")


def main():
    """Run what the arguments say."""
    dsn, name, broker, way, *arguments = sys.argv[1:]
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.faults.django_shop.settings",
        "SHOP_DSN": dsn,
        "SHOP_BROKER": broker,
        "SHOP_WAY": way,
    }
    import_all()
    import django
    from django.db import connections

    django.setup()
    assert connections["default"].connection is None  # each fork has its own
    kinds = {
        "web": partial(web, dsn, broker, way, make=DjangoWeb),
        "stepping_web": partial(stepping_web, dsn, broker, way, make=DjangoWeb),
        "relay": relay,
    }
    kinds[name](*arguments)

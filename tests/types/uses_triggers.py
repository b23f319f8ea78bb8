"""Triggers that notify of changed rows, as a user creates them."""

import psycopg

from pgnotifier import triggers
from pgnotifier.triggers import InstalledTrigger, Trigger


def change(connection: psycopg.Connection) -> list[str]:
    paid = Trigger("orders", "paid", on=["update"], columns=["status"], when="NEW.amount > 0")
    triggers.create(connection, paid)
    found: list[InstalledTrigger] = triggers.list(connection)
    was_there: bool = triggers.drop(connection, paid)
    print(paid.create_sql(), paid.drop_sql(), was_there, found[0].trigger, found[0].is_orphan)
    return triggers.drop_orphans(connection)

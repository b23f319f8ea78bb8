"""Create the tables, their triggers and the durable log: `python -m store.create`."""

from pathlib import Path

import psycopg

from pgnotifier import durable
from store.settings import DSN

with psycopg.connect(DSN) as connection:
    connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
    durable.install(connection)
print("tables, triggers and the durable log are there")

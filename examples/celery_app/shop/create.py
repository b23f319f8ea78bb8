"""Create the tables and their triggers, and install the durable log: `python -m shop.create`."""

from pathlib import Path

import psycopg

from pgnotifier.durable import install
from shop.settings import DSN

with psycopg.connect(DSN) as connection:
    connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
    install(connection)  # as the command `pgnotifier install` does
print("tables, triggers and the durable log are there")

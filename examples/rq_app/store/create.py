"""Create the tables and their triggers: `python -m store.create`."""

from pathlib import Path

import psycopg

from store.settings import DSN

with psycopg.connect(DSN) as connection:
    connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
print("tables and triggers are there")

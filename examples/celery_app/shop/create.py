"""Create the tables and their triggers: `python -m shop.create`."""

from pathlib import Path

import psycopg

from shop.settings import DSN

with psycopg.connect(DSN) as connection:
    connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
print("tables and triggers are there")

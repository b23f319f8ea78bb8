"""Create the tables, and install the durable log: `python -m market.create`."""

from pathlib import Path

import psycopg

from market.settings import DSN
from pgnotifier.durable import install

with psycopg.connect(DSN) as connection:
    connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
    install(connection)  # as the command `pgnotifier install` does
print("tables and the durable log are there")

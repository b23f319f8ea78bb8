"""Print what has become of each order: `python -m market.report`."""

import psycopg

from market.accidents import EVERYTHING
from market.settings import DSN

WAYS = ("delay()", "after commit", "outbox")
QUERY = """
SELECT way, accident, o.way IS NOT NULL, count(i.id)
FROM orders o FULL JOIN invoices i USING (way, accident) GROUP BY way, accident, o.way
"""
FATES = {
    (False, 0): "no order",
    (True, 0): "LOST",
    (False, 1): "NO ORDER, INVOICED",
    (True, 1): "invoiced",
}
ROW = "{:<26}{:<20}{:<14}{}"


def count(fate: str) -> list[int]:
    """Return how often that has happened, for each of the ways."""
    return [sum(fates[way, accident] == fate for accident in EVERYTHING) for way in WAYS]


with psycopg.connect(DSN) as connection:
    rows = connection.execute(QUERY).fetchall()
fates = dict.fromkeys(((way, accident) for way in WAYS for accident in EVERYTHING), "no order")
for way, accident, is_there, invoices in rows:
    fates[way, accident] = FATES.get((is_there, invoices), f"invoiced {invoices} times")

print(ROW.format("what happens", *WAYS))
for accident in EVERYTHING:
    print(ROW.format(accident, *(fates[way, accident] for way in WAYS)))
print(ROW.format("orders without invoice", *count("LOST")))
print(ROW.format("invoices without order", *count("NO ORDER, INVOICED")))

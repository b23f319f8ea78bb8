"""Place orders and upload images, as customers would: `python -m shop.produce`."""

import psycopg

from pgnotifier.durable import publish
from shop.settings import DSN

with psycopg.connect(DSN) as connection:
    for number in range(1, 11):
        with connection.transaction():  # the order and its entry are committed together
            insert = "INSERT INTO orders (item) VALUES (%s) RETURNING id"
            [(order,)] = connection.execute(insert, (f"book {number}",)).fetchall()
            publish(connection, "invoice_due", {"id": order})
        if number % 2:
            path = f"/covers/{number}.png"
            with connection.transaction():
                connection.execute("INSERT INTO images (path) VALUES (%s)", (path,))
print("10 orders placed, 5 images uploaded")

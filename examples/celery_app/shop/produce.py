"""Place orders and upload images, as customers would: `python -m shop.produce`."""

from shop.database import execute

for number in range(1, 11):
    execute("INSERT INTO orders (item) VALUES (%s)", (f"book {number}",))
    if number % 2:
        execute("INSERT INTO images (path) VALUES (%s)", (f"/covers/{number}.png",))
print("10 orders placed, 5 images uploaded")

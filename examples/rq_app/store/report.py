"""Print how much the workers have done: `python -m store.report`."""

from store.database import execute

[(orders, invoiced, images, resized, sales, shipped, unsold)] = execute(
    """
    SELECT (SELECT count(*) FROM orders), (SELECT count(invoiced_at) FROM orders),
           (SELECT count(*) FROM images), (SELECT count(thumbnail) FROM images),
           (SELECT count(*) FROM sales),
           (SELECT count(*) FROM shipments WHERE sale IN (SELECT id FROM sales)),
           (SELECT count(*) FROM shipments WHERE sale NOT IN (SELECT id FROM sales))
    """
)
print(f"{invoiced} of {orders} orders invoiced")
print(f"{resized} of {images} images resized")
print(f"{shipped} of {sales} sales shipped, {unsold} shipments without a sale")

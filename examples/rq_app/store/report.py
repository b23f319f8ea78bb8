"""Print how much the workers have done: `python -m store.report`."""

from store.database import execute

[(orders, invoiced, images, resized)] = execute(
    """
    SELECT (SELECT count(*) FROM orders), (SELECT count(invoiced_at) FROM orders),
           (SELECT count(*) FROM images), (SELECT count(thumbnail) FROM images)
    """
)
print(f"{invoiced} of {orders} orders invoiced")
print(f"{resized} of {images} images resized")

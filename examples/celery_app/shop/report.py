"""Print how much the workers have done: `python -m shop.report`."""

from shop.database import execute

[(orders, invoiced, images, resized, audited)] = execute(
    """
    SELECT (SELECT count(*) FROM orders), (SELECT count(invoiced_at) FROM orders),
           (SELECT count(*) FROM images), (SELECT count(thumbnail) FROM images),
           (SELECT count(*) FROM audits)
    """
)
print(f"{invoiced} of {orders} orders invoiced, {audited} audited")
print(f"{resized} of {images} images resized")

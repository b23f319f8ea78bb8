"""A Django project that takes the orders of the shop: see `tests.faults.shopping`."""

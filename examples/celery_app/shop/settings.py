"""The addresses of the database and the broker."""

import os

DSN = os.environ.get("SHOP_DSN", "postgresql://localhost/shop")
BROKER = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")

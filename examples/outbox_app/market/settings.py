"""The addresses of the database and the broker."""

import os

DSN = os.environ.get("MARKET_DSN", "postgresql://localhost/market")
BROKER = os.environ.get("MARKET_BROKER", "redis://localhost:6379/0")

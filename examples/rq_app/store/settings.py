"""The addresses of the database and Redis."""

import os

DSN = os.environ.get("STORE_DSN", "postgresql://localhost/store")
REDIS = os.environ.get("STORE_REDIS", "redis://localhost:6379/0")

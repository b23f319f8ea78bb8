"""The address of the database."""

import os

DSN = os.environ.get("BOARD_DSN", "postgresql://localhost/board")

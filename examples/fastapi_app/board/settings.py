"""Where the database is."""

import os

DSN = os.environ.get("BOARD_DSN", "postgresql://localhost/board")

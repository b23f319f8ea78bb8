"""The reader: one connection that listens, and what keeps it trustworthy."""

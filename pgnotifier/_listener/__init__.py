"""The reader: a thread that listens on one connection, checks that it works, and replaces it."""

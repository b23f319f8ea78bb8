"""Questions to running listeners, and their answers, on private channels of the database."""

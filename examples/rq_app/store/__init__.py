"""A small store: images are resized and orders invoiced by RQ, told by PostgreSQL."""

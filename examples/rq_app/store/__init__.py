"""A small store: when PostgreSQL notifies, RQ jobs resize images and invoice orders."""

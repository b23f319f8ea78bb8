"""A small shop: when PostgreSQL notifies, Celery tasks resize images and invoice orders."""

from shop.celery import app

__all__ = ["app"]

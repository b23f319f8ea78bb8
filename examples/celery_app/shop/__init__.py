"""A small shop: images are resized and orders invoiced by Celery, told by PostgreSQL."""

from shop.celery import app

__all__ = ["app"]

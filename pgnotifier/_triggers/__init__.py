"""Triggers that notify of changed rows: their SQL, for Django's models and for any table."""

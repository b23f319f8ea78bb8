"""The version of the package."""

VERSION = "0.1.0"
"""It must equal that in pyproject.toml."""

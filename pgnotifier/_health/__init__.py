"""Liveness and readiness, asked over HTTP."""

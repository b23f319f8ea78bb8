"""Answer liveness and readiness probes over HTTP."""

"""What Prometheus and OpenTelemetry say of notifiers: one table of metrics for both."""

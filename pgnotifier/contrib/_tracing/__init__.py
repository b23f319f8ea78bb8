"""What the integrations of OpenTelemetry and Sentry have in common."""

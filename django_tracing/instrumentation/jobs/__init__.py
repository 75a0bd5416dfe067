"""Trace the jobs of background queues that OpenTelemetry does not instrument: one module for each library."""

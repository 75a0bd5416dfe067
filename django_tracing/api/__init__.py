"""Trace a user's own code. The public names are imported from ``django_tracing``."""

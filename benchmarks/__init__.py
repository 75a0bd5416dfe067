"""Measure the cost of tracing on this machine: ``make benchmark``."""

"""What tracing costs, measured on this machine: ``make benchmark``."""

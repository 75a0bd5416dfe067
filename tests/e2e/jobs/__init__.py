"""Hold jobs for the workers of several queues."""

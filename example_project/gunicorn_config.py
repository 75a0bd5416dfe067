"""Settings that not every version of gunicorn has as an option: a version ignores names that it doesn't know."""

#: Two services of a user would use the same socket, which the second one logs as an error.
control_socket_disable = True

"""What gunicorn has no option for in every version: names that a version does not know are passed over here."""

#: Two services of one user would have one socket at the same place; the second one logs that as an error.
control_socket_disable = True

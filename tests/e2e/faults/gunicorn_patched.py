"""Configure gunicorn with --preload and gevent, which has to patch before Django is loaded."""

import gevent.monkey

gevent.monkey.patch_all()

#: Two services of a user would use the same socket.
control_socket_disable = True

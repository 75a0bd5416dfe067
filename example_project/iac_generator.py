"""Run a service that is too slow: it never answers. ``python -m example_project.iac_generator PORT``."""

from __future__ import annotations

import socket
import sys
import threading


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a listening socket whose connections are never accepted; closing it ends the service."""
    listener = socket.create_server((host, port), backlog=128)
    return listener


if __name__ == "__main__":
    with listen(int(sys.argv[1]), "0.0.0.0"):
        threading.Event().wait()

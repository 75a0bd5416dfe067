"""A client library of another author."""

from __future__ import annotations


class Client:
    def send(self, queue: str, message: str) -> int:
        if queue == "closed":
            raise ConnectionError("The queue is closed; password=hunter2")
        return len(message)

"""A real HTTP service that traced code calls: it remembers the headers that came."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import requests
import urllib3

__all__ = ["CLIENTS", "Callee"]


class Callee:
    """``with Callee() as callee``: answers ``callee.url``, with the status that a path like ``/503`` names."""

    def __init__(self) -> None:
        #: Of each request: its headers, names in lower case, as they came.
        self.received: list[dict[str, str]] = []
        callee = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                callee.received.append({name.lower(): value for name, value in self.headers.items()})
                path = self.path.partition("?")[0].strip("/")
                self.send_response(int(path) if path.isdigit() else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Callee:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _requests(url: str) -> int:
    return requests.get(url, timeout=10).status_code


def _httpx(url: str) -> int:
    return httpx.get(url, timeout=10).status_code


def _httpx_async(url: str) -> int:
    async def call() -> int:
        async with httpx.AsyncClient(timeout=10) as client:
            return (await client.get(url)).status_code

    return asyncio.run(call())


def _urllib3(url: str) -> int:
    with urllib3.PoolManager(timeout=10, retries=False) as pool:
        return pool.request("GET", url).status


def _urllib(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


#: Name -> a GET by that library; gives the status.
CLIENTS: dict[str, Callable[[str], int]] = {
    "requests": _requests,
    "httpx": _httpx,
    "httpx-async": _httpx_async,
    "urllib3": _urllib3,
    "urllib": _urllib,
}

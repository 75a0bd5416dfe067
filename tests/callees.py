"""Run an HTTP service that traced code calls, and record the headers of the requests."""

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
    """``with Callee() as callee``: answers ``callee.url``, with the status that a path like ``/503`` names.

    ``?to=URL`` is a redirect.
    """

    def __init__(self) -> None:
        #: Of each request: its headers, names in lower case, as they came.
        self.received: list[dict[str, str]] = []
        callee = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                callee.received.append({name.lower(): value for name, value in self.headers.items()})
                path, _, query = self.path.partition("?")
                path = path.strip("/")
                self.send_response(int(path) if path.isdigit() else 302 if query.startswith("to=") else 200)
                if query.startswith("to="):
                    self.send_header("Location", query[3:])
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


Headers = dict[str, str] | None


def _requests(url: str, headers: Headers = None) -> int:
    return requests.get(url, headers=headers, timeout=10).status_code


def _httpx(url: str, headers: Headers = None) -> int:
    return httpx.get(url, headers=headers, timeout=10, follow_redirects=True).status_code


def _httpx_async(url: str, headers: Headers = None) -> int:
    async def call() -> int:
        async with httpx.AsyncClient(timeout=10, follow_redirects=True) as client:
            return (await client.get(url, headers=headers)).status_code

    return asyncio.run(call())


def _urllib3(url: str, headers: Headers = None) -> int:
    with urllib3.PoolManager(
        timeout=10, retries=urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=3)
    ) as pool:
        return pool.request("GET", url, headers=headers).status


def _urllib(url: str, headers: Headers = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


#: Name -> a GET with that library, which returns the status.
CLIENTS: dict[str, Callable[..., int]] = {
    "requests": _requests,
    "httpx": _httpx,
    "httpx-async": _httpx_async,
    "urllib3": _urllib3,
    "urllib": _urllib,
}

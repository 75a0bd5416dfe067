"""Send requests to Jaeger's query API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from django_tracing.exceptions import JaegerError
from django_tracing.net import connect, explain_error, extend_deadline, parse_address, shown_address
from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from django_tracing.traces.values import parse_json

__all__ = ["DOWNLOAD_TIME", "MAX_ANSWER", "QueryClient", "Version"]

T = TypeVar("T")

Version = Literal["v3", "v1"]

#: Longer responses are not read, in bytes: the address may be any program's.
MAX_ANSWER: Final = 64 * 1024 * 1024
#: How long a download may take, in seconds. Each read of it ends after the client's timeout.
DOWNLOAD_TIME: Final = 600.0

#: What is raised while a response is read that is not one of Jaeger's.
_NOT_JAEGER: Final = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError)


class QueryClient:
    """An HTTP client of the query API at ``query_url``. Methods raise :class:`JaegerError`.

    ``timeout`` is in seconds, for each request; ``budget`` for all requests together, if given.
    """

    def __init__(
        self,
        query_url: str,
        *,
        timeout: float,
        budget: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._address = parse_address(query_url)
        self._base = quote(self._address.path.rstrip("/"), safe="/%", errors="replace")
        #: The address for people.
        self.shown = shown_address(urlsplit(query_url)._replace(query="", fragment="").geturl().rstrip("/"))
        self.timeout = timeout
        self._deadline = None if budget is None else time.monotonic() + budget
        self._headers = {"Accept": "application/json", "User-Agent": "django-tracing-otel", **(headers or {})}
        if self._address.authorization is not None:
            self._headers["Authorization"] = self._address.authorization

    def find_version(self) -> Version:
        """Ask which version of the API this Jaeger has, with one or two requests."""
        # Where version 3 is known, this request without parameters is refused as incomplete. Servers that don't know
        # it may answer with anything, even status 200 and a web page. That is why only JSON counts.
        status, answer = self.get("/api/v3/trace-summaries", {})
        if isinstance(answer, dict) and (status == 400 or "summaries" in answer):
            return "v3"
        older, answer = self.get("/api/services", {})
        if older == 200 and isinstance(answer, dict) and "data" in answer:
            return "v1"
        for code in (status, older):
            if code >= 500:
                raise self._failed(code, answer)
        if older == 404:
            raise JaegerError(
                f"There is no Jaeger query API at {self.shown} (404). "
                f"Set QUERY_URL to the address of Jaeger's UI, including its path.",
                "not_found",
            )
        raise JaegerError(
            f"The server at {self.shown} is not Jaeger's query API. "
            f"Set QUERY_URL to the address of Jaeger's UI, including its path.",
            "not_jaeger",
        )

    def get(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return the status and the decoded JSON, which is None if the response is not JSON."""
        with self._response(path, query) as (status, read):
            return status, _decode(read)

    def ask(self, path: str, query: Mapping[str, str], decode: Callable[[Any], T]) -> T:
        """Return what ``decode`` makes of the response's JSON."""
        status, answer = self.get(path, query)
        if status >= 400:
            raise self._failed(status, answer)
        try:
            return decode(answer)
        except _NOT_JAEGER as error:
            raise self._not_jaeger(path) from error

    def ask_for_spans(
        self, path: str, query: Mapping[str, str], walk: Callable[[JsonStream], T], *, none: T | None = None
    ) -> T:
        """Return what ``walk`` makes of the response while it is read, or ``none``, if given, if there is nothing."""
        with self._response(path, query) as (status, read):
            if status != 200:
                answer = _decode(read)
                if status == 404 and isinstance(answer, dict) and none is not None:
                    return none
                raise self._failed(status, answer)
            try:
                return walk(JsonStream(read))
            except _NOT_JAEGER as error:
                raise self._not_jaeger(path) from error

    @contextmanager
    def download(self, path: str) -> Iterator[JsonStream | None]:
        """Open a response of any length; None if there is nothing at ``path``."""
        try:
            with self._response(path, {}, DOWNLOAD_TIME) as (status, read):
                if status != 200:
                    answer = _decode(read)
                    if status != 404 or not isinstance(answer, dict):
                        raise self._failed(status, answer)
                yield JsonStream(read) if status == 200 else None
        except _NOT_JAEGER as error:
            raise self._not_jaeger(path) from error

    @contextmanager
    def _response(
        self, path: str, query: Mapping[str, str], longest: float | None = None
    ) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """Yield the status, and a function that returns the next piece of the body, which is empty at the end.

        If ``longest`` is given, the body may take that many seconds and have any length.
        """
        target = self._target(path, query)
        timeout = self.timeout
        if self._deadline is not None:
            timeout = min(timeout, self._deadline - time.monotonic())
            if timeout <= 0:
                raise self._too_slow()
        connection = connect(self._address, timeout)
        try:
            try:
                connection.request("GET", target, headers=self._headers)
                response = connection.getresponse()
            except (OSError, HTTPException, UnicodeError) as error:
                raise self._explained(error) from error
            with response:
                self._check_status(response.status, response.getheader("Location"))
                if longest is not None:
                    extend_deadline(response, longest)
                yield response.status, self._reader(response, longest)
        finally:
            connection.close()

    def _target(self, path: str, query: Mapping[str, str]) -> str:
        # An argument of a command has surrogates in place of bytes that are not UTF-8.
        return self._base + path + (f"?{urlencode(query, errors='replace')}" if query else "")

    def _check_status(self, status: int, location: str | None) -> None:
        if status in (401, 403):
            raise JaegerError(
                f"{self.shown} does not accept the credentials ({status}). "
                f"Put the right ones into QUERY_URL (https://user:password@host).",
                "unauthorized",
            )
        if 300 <= status < 400:
            raise JaegerError(
                f"{self.shown} redirects to {_origin(location)} ({status}), as login pages do. "
                f"Set QUERY_URL to an address that does not redirect.",
                "unauthorized",
            )

    def _reader(self, response: HTTPResponse, longest: float | None) -> Callable[[], bytes]:
        deadline = time.monotonic() + (self.timeout if longest is None else longest)
        length = 0

        def read() -> bytes:
            nonlocal length
            try:
                # read1() returns what has arrived, so a slow server is given up in time.
                part = response.read1(1 << 16)
                if part and time.monotonic() > deadline:
                    raise TimeoutError
            except (OSError, HTTPException) as error:
                raise self._explained(error) from error
            length += len(part)
            if length > MAX_ANSWER and longest is None:
                raise JaegerError(
                    f"The response of {self.shown} is longer than {MAX_ANSWER >> 20} MiB. Ask for fewer traces.",
                    "failed",
                )
            return part

        return read

    def _failed(self, status: int, answer: Any) -> JaegerError:
        return JaegerError(f"{self.shown} failed ({status}){_error_text(answer)}.", "failed")

    def _not_jaeger(self, path: str) -> JaegerError:
        return JaegerError(f"The response of {self.shown}{path} is not one of Jaeger's query API.", "not_jaeger")

    def _too_slow(self) -> JaegerError:
        return JaegerError(
            f"{self.shown} takes too long to answer. Search one service, or a shorter time.", "timeout"
        )

    def _explained(self, error: Exception) -> JaegerError:
        kind, message = explain_error(error, self._address.where, timeout=self.timeout)
        if kind == "timeout" and self._deadline is not None and time.monotonic() >= self._deadline:
            return self._too_slow()
        if kind == "not_tls":
            return JaegerError(f"{message} Write QUERY_URL with http://.", "tls")
        if kind == "refused":
            return JaegerError(f"{message} Is Jaeger running, and is QUERY_URL right?", kind)
        if kind == "dns":
            return JaegerError(f"{message} Is QUERY_URL right?", kind)
        if kind == "not_http" or (kind == "closed" and isinstance(error, HTTPException)):
            return JaegerError(f"{message} Is QUERY_URL right?", "not_jaeger")
        return JaegerError(message, "unreachable" if kind == "closed" else kind)


def _origin(location: str | None) -> str:
    # The rest of it may contain tokens.
    try:
        parts = urlsplit(location or "")
    except ValueError:
        return "another page"
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another page"


def _error_text(answer: Any) -> str:
    """Return the message of an error response of either version."""
    text = ""
    if isinstance(answer, dict):
        if isinstance(answer.get("error"), dict):
            text = str(answer["error"].get("message", ""))
        elif isinstance(answer.get("errors"), list) and answer["errors"]:
            first = answer["errors"][0]
            text = str(first.get("msg", "")) if isinstance(first, dict) else str(first)
    return f": {text[:200]}" if text else ""


def _decode(read: Callable[[], bytes]) -> Any:
    body = b"".join(iter(read, b"")).decode("utf-8", "replace")
    try:
        return parse_json(body)
    except (ValueError, RecursionError):
        return None

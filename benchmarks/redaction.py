"""Measure how many secrets are recognized, and what else is taken for one: ``python -m benchmarks.redaction``.

Secrets are drawn as their makers draw them (``benchmarks/kinds.py``) and put where values stand. Names are those of
packages; slugs and titles are drawn from their words. Lists of your own come with ``--names``.
"""

from __future__ import annotations

import argparse
import random
import re
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from benchmarks.kinds import KINDS, draw, is_left
from django_tracing.redaction import SensitiveKeys, redact_db_error, redact_stacktrace, redact_text, sanitise_url

NAMES: Final = Path(__file__).parent.parent / "tests/data/names.txt"
_KEYS: Final = SensitiveKeys()

#: The places of a value, and the function that redacts each.
PLACES: Final[dict[str, Callable[[str], str]]] = {
    "query": lambda value: unquote(sanitise_url(f"https://h/a?q={quote(value, safe='')}", _KEYS)),
    "path": lambda value: unquote(sanitise_url(f"https://h/a/{quote(value, safe='')}/b", _KEYS)),
    "attribute": redact_text,
    "message": lambda value: redact_db_error(f"refused {value} today"),
    "stack": lambda value: redact_stacktrace(
        f'Traceback (most recent call last):\n  File "/a.py", line 1, in a\n    a("x")\nValueError: no {value}', 8000
    ),
    "log": lambda value: redact_text(f"got {value}, again"),
    "URL in a message": lambda value: redact_text(f"404 for url: https://h/x?q={quote(value, safe='')} (once)"),
}
_STRICT: Final = ("query", "path", "URL in a message")
#: The alphabets of random tokens.
TOKENS: Final = {
    "hexadecimal": "0123456789abcdef",
    "base32": string.ascii_uppercase + "234567",
    "base62": string.ascii_letters + string.digits,
    "base64url": string.ascii_letters + string.digits + "-_",
    "small letters and digits": string.ascii_lowercase + string.digits,
}
_WORD: Final = re.compile(r"[A-Za-z]{2,}")


def readable(place: str, samples: int, rng: random.Random) -> dict[str, float]:
    """Return the share of secrets that can be read in ``place``, by kind, without kinds that can't be read at all.

    In a URL, six characters in one piece count as readable; in a text, where a token's ``=`` may mean something else,
    half of the secret in one piece.
    """
    redact = PLACES[place]
    share = 0 if place in _STRICT else 0.5
    shares = {}
    for kind in KINDS:
        left = 0
        for _ in range(samples):
            token, parts = draw(kind, rng)
            left += is_left(parts, redact(token), share)
        if left:
            shares[kind] = left / samples
    return shares


def texts(names: list[str], count: int, rng: random.Random) -> dict[str, list[str]]:
    """Return ``names``, and ``count`` slugs and titles each, made of their words."""
    words = sorted({word for name in names for word in _WORD.findall(name)})

    def slug() -> str:
        drawn = [word.lower() for word in rng.choices(words, k=rng.randint(2, 8))]
        if rng.random() < 0.3:
            drawn.append(str(rng.choice([rng.randint(1, 99), rng.randint(1990, 2030), rng.randint(10**3, 10**8)])))
        return rng.choice("--_").join(drawn)

    def title() -> str:
        drawn = rng.choices(words, k=rng.randint(2, 8))
        return " ".join([drawn[0].capitalize(), *drawn[1:]]) + rng.choice(["", "", "?", f" {rng.randint(1, 2030)}"])

    return {"names": names, "slugs": [slug() for _ in range(count)], "titles": [title() for _ in range(count)]}


def changed(values: list[str], place: str = "query") -> list[str]:
    """Return those of ``values`` that are taken for a secret."""
    redact = PLACES[place]
    return [value for value in values if "[redacted]" in redact(value)]


def passing(alphabet: str, length: int, count: int, rng: random.Random) -> list[str]:
    """Return those of ``count`` random tokens that are taken for words."""
    drawn = ("".join(rng.choices(TOKENS[alphabet], k=length)) for _ in range(count))
    return [token for token in drawn if token in PLACES["query"](token)]


def costs() -> Iterator[tuple[str, float, float]]:
    """Yield the microseconds for a new and for a repeated text: the smallest of several means."""
    for text in (
        "Not Found",
        "The report is ready, and the next one follows soon after it.",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        '  File "/usr/lib/python3/site-packages/django/core/handlers/exception.py", line 55, in inner',
        "api_key=Zx8abQ9f1cDkk2LmN0pQ7Yt3 refused",
    ):
        means: tuple[list[float], list[float]] = ([], [])
        for number in range(9):
            for again, kept in enumerate(means):
                each = [text] * 1000 if again else [f"{text} {number * 1000 + other}" for other in range(1000)]
                began = time.perf_counter()
                for one in each:
                    redact_text(one)
                kept.append((time.perf_counter() - began) * 1000)
        yield text, min(means[0]), min(means[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--names", type=Path, default=NAMES, help="a file of names, one a line (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=100, help="secrets of each kind (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=20_000, help="of each alphabet and length (default: %(default)s)"
    )
    arguments = parser.parse_args()
    rng = random.Random(1)

    print(f"{len(KINDS)} kinds of secrets, {arguments.samples} of each; readable where more than 2 % are\n")
    for place in PLACES:
        shares = readable(place, arguments.samples, rng)
        kinds = sorted(kind for kind, share in shares.items() if share > 0.02)
        print(f"{place:20} {len(kinds):4}  {', '.join(kinds)}")

    names = arguments.names.read_text(encoding="utf-8").split("\n")
    print("\nwhat is no secret, as ?q=, and how much of it is taken for one\n")
    for what, values in texts([name for name in names if name], 22_000, rng).items():
        taken = changed(values)
        print(f"{what:20} {len(values):7,} {100 * len(taken) / len(values):6.3f} %  {', '.join(taken[:4])}")

    lengths = (13, 16, 20, 32)
    print("\nrandom tokens, and how many of them are taken for words\n")
    print(" " * 26 + "".join(f"{length:>10}" for length in lengths))
    for alphabet in TOKENS:
        shares = [len(passing(alphabet, length, arguments.tokens, rng)) / arguments.tokens for length in lengths]
        print(f"{alphabet:26}" + "".join(f"{100 * share:8.3f} %" for share in shares))

    print("\nmicroseconds of redact_text, for a text that is read first, and again\n")
    for text, first, again in costs():
        print(f"{first:6.1f} {again:6.1f}  {text}")


if __name__ == "__main__":
    main()

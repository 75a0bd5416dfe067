"""Fit the table of letters of ``redaction/looks.py``: ``python -m benchmarks.letters NAMES...``.

Takes files of names, titles and words, one a line, and prints the constants. Each pair of neighboring characters has
a weight, so has each pair of their kinds (small letter, capital, digit, separator); the sum says how much rather a
word was drawn at random. It is a logistic regression on the names that were given (0) and on random tokens of the
usual alphabets (1), by stochastic gradient descent. The same files give the same table.

Fitted in November 2026 on 250,000 names of packages (PyPI's and npm's), the titles of 90,000 of them as they are and
as slugs, 190,000 identifiers of Python code, and 30,000 words each of English, German, French, Spanish, Portuguese,
Italian, Dutch and Polish (Debian's packages wamerican, wngerman and so on).
"""

from __future__ import annotations

import argparse
import math
import random
import re
import string
from pathlib import Path
from typing import Final

from django_tracing.redaction import looks

#: Random tokens are drawn from each of these, with equal probability for each entry.
ALPHABETS: Final = [
    *[string.ascii_lowercase + string.digits] * 4,
    *[string.ascii_uppercase + "234567"] * 3,
    *[string.ascii_letters + string.digits] * 3,
    *[string.ascii_letters + string.digits + "-_"] * 6,
    *[string.ascii_lowercase + string.digits + "-_"] * 2,
    string.ascii_lowercase,
    string.ascii_letters,
]
LENGTHS: Final = (13, 14, 15, 16, 16, 16, 16, 17, 18, 20, 22, 24, 32)
EPOCHS: Final = 12
#: Added to the sum of a word, by kind: a token that is taken for a word costs more than a word that is taken for a
#: token, except where there are letters only, of one case, as hardly a token is made.
LEANS: Final = (-0.5, *[0.5] * 7)
_SYMBOLS: Final = len(looks.SYMBOLS)
_WORD: Final = re.compile(r"[A-Za-z0-9_+~.%=-]+")


def words_of(paths: list[Path]) -> list[str]:
    words = set()
    for path in paths:
        for word in _WORD.findall(path.read_text(encoding="utf-8")):
            bare = looks.without_known(word)
            if looks.SHORTEST <= len(bare) <= 60 and not looks.is_long_number(bare):
                words.add(bare)
    return sorted(words)


def tokens(count: int, rng: random.Random) -> list[str]:
    drawn: list[str] = []
    while len(drawn) < count:
        token = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.choice(LENGTHS)))
        if not token.isdigit() and not looks.is_long_number(token):
            drawn.append(token)
    return drawn


def features(word: str) -> tuple[list[int], int, int]:
    """Return the indices of its pairs in the weights, its kind and its length."""
    folded = word if any(map(str.islower, word)) else word.lower()
    places = []
    before, case_before = looks.symbol("-"), looks.case("-")
    for character in folded:
        now, case = looks.symbol(character), looks.case(character)
        places.append(before * _SYMBOLS + now)
        places.append(_SYMBOLS * _SYMBOLS + case_before * 4 + case)
        before, case_before = now, case
    return places, looks.kind_of(word), len(word)


def fit(words: list[str], randoms: list[str], rng: random.Random) -> list[float]:
    """Return the weights of pairs of symbols, of pairs of cases, of a character by kind, and of a word by kind."""
    pairs = _SYMBOLS * _SYMBOLS + 16
    weights = [0.0] * (pairs + 16)
    squares = [1e-3] * (pairs + 16)
    samples = [(*features(word), 0.0) for word in words] + [(*features(token), 1.0) for token in randoms]
    for epoch in range(EPOCHS):
        rng.shuffle(samples)
        for places, kind, length, expected in samples:
            per_character, at_all = pairs + kind, pairs + 8 + kind
            total = sum(map(weights.__getitem__, places)) + weights[per_character] * length / 10 + weights[at_all]
            error = 1 / (1 + math.exp(-max(-50.0, min(50.0, total)))) - expected
            if -1e-4 < error < 1e-4:
                continue
            square = error * error
            for place in (*places, at_all):
                squares[place] += square
                weights[place] -= 0.3 * error / math.sqrt(squares[place])
            squares[per_character] += square
            weights[per_character] -= 0.3 * error * length / 10 / math.sqrt(squares[per_character])
        wrong = 0
        for places, kind, length, expected in samples:
            total = sum(map(weights.__getitem__, places)) + weights[pairs + kind] * length / 10
            wrong += (total + weights[pairs + 8 + kind] > 0) != expected
        print(f"# epoch {epoch + 1}: {100 * wrong / len(samples):.3f} % of the samples are judged wrongly")
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", type=Path, help="files with names, titles or words, one a line")
    parser.add_argument("--tokens", type=int, default=500_000, help="random ones (default: %(default)s)")
    arguments = parser.parse_args()
    rng = random.Random(1)
    words = words_of(arguments.names)
    print(f"# {len(words):,} words, {arguments.tokens:,} random tokens")
    weights = fit(words, tokens(arguments.tokens, rng), rng)
    pairs, cases = weights[: _SYMBOLS**2], weights[_SYMBOLS**2 : _SYMBOLS**2 + 16]
    kinds = weights[_SYMBOLS**2 + 16 :]
    print("_PAIRS: Final = (")
    for row in range(_SYMBOLS):
        print(f'    "{"".join(looks.written(weight) for weight in pairs[row * _SYMBOLS : (row + 1) * _SYMBOLS])}"')
    print(")")
    print(f"_CASES: Final = ({', '.join(f'{weight:.2f}' for weight in cases)})")
    print(f"_A_CHARACTER: Final = ({', '.join(f'{weight / 10:.3f}' for weight in kinds[:8])})")
    leaning = [weight + lean for weight, lean in zip(kinds[8:], LEANS, strict=True)]
    print(f"_A_WORD: Final = ({', '.join(f'{weight:.2f}' for weight in leaning)})")


if __name__ == "__main__":
    main()

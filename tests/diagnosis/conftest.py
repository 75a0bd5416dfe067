"""Fixtures of the tests of the diagnosis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture(params=["jaeger", "jaeger_151"])
def any_jaeger(request: pytest.FixtureRequest) -> Jaeger:
    jaeger: Jaeger = request.getfixturevalue(request.param)
    return jaeger

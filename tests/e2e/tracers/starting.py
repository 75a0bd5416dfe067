"""Start the tracer that OTHER_TRACER names, as its documentation says, sending to OTHER_RECEIVER."""

from __future__ import annotations

import os

__all__ = ["start"]


def start() -> None:
    globals()[f"_start_{os.environ['OTHER_TRACER']}"](os.environ["OTHER_RECEIVER"])


def _start_ddtrace(receiver: str) -> None:
    # Configured by variables, as with ddtrace-run.
    import ddtrace.auto  # noqa: F401


def _start_sentry(receiver: str) -> None:
    import sentry_sdk

    sentry_sdk.init(
        receiver.replace("://", "://key@") + "/1",
        traces_sample_rate=1.0,
        enable_backpressure_handling=False,
    )


def _start_sentry_otel(receiver: str) -> None:
    import sentry_sdk
    from opentelemetry import trace
    from opentelemetry.propagate import set_global_textmap
    from opentelemetry.sdk.trace import TracerProvider
    from sentry_sdk.integrations.opentelemetry import SentryPropagator, SentrySpanProcessor

    sentry_sdk.init(receiver.replace("://", "://key@") + "/1", traces_sample_rate=1.0, instrumenter="otel")
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SentrySpanProcessor())
    set_global_textmap(SentryPropagator())


def _start_sentry_otlp(receiver: str) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.otlp import OTLPIntegration

    sentry_sdk.init(
        receiver.replace("://", "://key@") + "/1", traces_sample_rate=1.0, integrations=[OTLPIntegration()]
    )


def _start_elastic(receiver: str) -> None:
    """Its own app starts it."""


def _start_newrelic(receiver: str) -> None:
    import newrelic.agent

    newrelic.agent.initialize()


def _start_logfire(receiver: str) -> None:
    import logfire

    logfire.configure(
        # Also under pytest.
        send_to_logfire=True,
        token="pylf_v1_us_0000",
        advanced=logfire.AdvancedOptions(base_url=receiver),
        service_name="theirs",
        console=False,
        inspect_arguments=False,
        metrics=False,
    )
    logfire.instrument_django()
    logfire.instrument_psycopg()
    logfire.instrument_redis()
    logfire.instrument_requests()

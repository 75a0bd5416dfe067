"""Trace what is sent through channel layers, and pass the context of its trace to the consumers.

A message is the only thing that a layer carries. So the context is one more key of it, which is removed again when
the message is received. A message that is sent outside a trace gets no such key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from django_tracing import spans
from django_tracing.context.extraction import inject
from django_tracing.instrumentation.channels.connections import class_path
from django_tracing.instrumentation.channels.messages import CARRIER, CarriedMessage, shown_type
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.subclasses import wrap_methods
from django_tracing.redaction import key_pattern
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes

__all__ = ["patch_layers", "patch_pubsub"]


def patch_layers(patches: Patches) -> None:
    """Trace every channel layer that is a subclass of Channels' own."""
    from channels.layers import BaseChannelLayer

    wrap_methods(patches, BaseChannelLayer, _methods(patches))


def patch_pubsub(patches: Patches) -> None:
    """Trace the layer of channels_redis that is no subclass."""
    from channels_redis.pubsub import RedisPubSubLoopLayer

    for name, make in _methods(patches).items():
        patches.wrap(RedisPubSubLoopLayer, name, make)


def _methods(patches: Patches) -> Mapping[str, Callable[[Any], Any]]:
    return {
        "send": partial(_traced_send, patches, "send"),
        "group_send": partial(_traced_send, patches, "group_send"),
        "receive": _untied_receive,
    }


def _traced_send(patches: Patches, operation: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A layer's own call, below one that has a span, sends a message that carries the context already.
        if not patches.active or not spans.span_context().is_valid:
            return await original(self, *args, **kwargs)
        started, args, kwargs = _start(self, operation, args, kwargs)
        if started is None:
            return await original(self, *args, **kwargs)
        token = spans.attach(started.context)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            spans.detach(token)
            started.end(error)
            raise
        spans.detach(token)
        started.end()
        return result

    return send


def _start(
    layer: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[spans.StartedSpan | None, tuple[Any, ...], dict[str, Any]]:
    """Start the span of a sending, and put the context into its message. Never raises."""
    started: spans.StartedSpan | None = None
    try:
        place = args[0] if args else next(value for key, value in kwargs.items() if key != "message")
        message = kwargs["message"] if "message" in kwargs else args[1]
        if not isinstance(message, dict) or CARRIER in message:
            return None, args, kwargs
        if spans.recording_span() is not None:
            kind = shown_type(message)
            attributes: Attributes = {
                names.OPERATION_TYPE: "channel",
                names.CHANNEL_TYPE: kind,
                names.CHANNEL_LAYER: class_path(layer),
            }
            pattern = key_pattern(str(place))
            # The channel of a connection's consumer has a random name.
            if pattern != "*" and "!" not in pattern:
                attributes[names.CHANNEL_GROUP if operation == "group_send" else names.CHANNEL_NAME] = pattern
            name = f"channel.{operation}.{kind}".rstrip(".")
            started = spans.start_operation(name, attributes, SpanKind.PRODUCER)
        carried = {**message, CARRIER: _carrier(None if started is None else started.context)}
        if "message" in kwargs:
            return started, args, {**kwargs, "message": carried}
        return started, (args[0], carried, *args[2:]), kwargs
    except Exception:
        spans.log_once(
            "channels-send", "A message was sent through a channel layer without the context of its trace."
        )
        return started, args, kwargs


def _carrier(context: Context | None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    inject(carrier, context)
    return carrier


def _untied_receive(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
        message = await original(self, *args, **kwargs)
        # Also when tracing has been switched off since. Several consumers may get the same object.
        if isinstance(message, dict) and CARRIER in message:
            return CarriedMessage(message)
        return message

    return receive

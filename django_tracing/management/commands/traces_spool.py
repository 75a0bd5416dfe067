"""Show, send or empty the spool: ``manage.py traces_spool``."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from opentelemetry import context as context_api

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import suppressed
from django_tracing.export.attempts import export_batch
from django_tracing.export.spool import Spool, is_writable
from django_tracing.provider import make_exporter, make_spool

__all__ = ["Command"]


class Command(BaseCommand):
    help = "Show, send or empty the folder where batches of spans wait that could not be sent (the setting SPOOL)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "action",
            nargs="?",
            choices=["show", "send", "empty"],
            default="show",
            help="show: print what waits (the default). send: send it, the oldest first. empty: remove it.",
        )
        parser.add_argument("--json", action="store_true", help="Print what waits as JSON.")

    def handle(self, *, action: str, json: bool, **options: Any) -> None:
        settings = get_settings()
        if settings.problems:
            raise CommandError(f"{settings.problems[0]}")
        if settings.spool is None:
            raise CommandError('There is no spool. Set TRACING["SPOOL"] to {"PATH": "/a/folder"}.')
        spool = make_spool(settings)
        if spool is None:
            raise CommandError(f"The exporter {settings.exporter} does not use the spool on this system.")
        if not is_writable(spool.folder):
            # Reading may work: without the folder, nothing waits.
            raise CommandError(f"The spool {spool.folder} can't be used: this user can't write to it.")
        try:
            if action == "send":
                self._send(spool)
            elif action == "empty":
                self.stdout.write(f"Removed {spool.empty()} spans from {spool.folder}.")
            else:
                self._show(spool, as_json=json)
        except OSError as error:
            raise CommandError(f"The spool {spool.folder} can't be used: {error.strerror or error}.") from error

    def _show(self, spool: Spool, *, as_json: bool) -> None:
        contents = spool.contents()
        if as_json:
            content = {"folder": str(spool.folder), "max_bytes": spool.max_bytes, **contents._asdict()}
            self.stdout.write(json.dumps(content, indent=2))
            return
        size = f"{contents.bytes / 2**20:.1f} of {spool.max_bytes / 2**20:.4g} MiB"
        self.stdout.write(f"{spool.folder}: {contents.spans} spans in {contents.batches} batches, {size}.")
        if contents.oldest is not None:
            stored = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(contents.oldest))
            self.stdout.write(f"The oldest batch was stored at {stored}.")

    def _send(self, spool: Spool) -> None:
        """Send until nothing waits, or until the receiver refuses a batch for a time."""
        exporter = make_exporter(get_settings())
        token = context_api.attach(suppressed())
        sent = dropped = 0
        failure = refusal = None
        try:
            while (batch := spool.claim()) is not None:
                failure = export_batch(exporter, batch)
                if failure is not None and failure.retryable:
                    spool.give_back(batch)
                    break
                rejected = 0 if failure is None else batch.count
                if failure is not None and failure.rejected is not None:
                    rejected = min(failure.rejected, batch.count)
                if failure is not None and failure.reason == "too_large" and batch.count > 1:
                    # The halves are batches of their own, which are sent last.
                    for part in batch.split():
                        spool.store(part)
                else:
                    refusal = failure or refusal
                    sent += batch.count - rejected
                    dropped += rejected
                spool.remove(batch)
        finally:
            context_api.detach(token)
            if exporter is not None:
                exporter.shutdown()
        damaged = spool.take_damaged()
        self.stdout.write(f"Sent {sent} spans.")
        if dropped or damaged:
            reason = f" {refusal}" if refusal is not None else ""
            self.stdout.write(f"{dropped} were rejected, and {damaged} were damaged.{reason}")
        left = spool.contents().spans
        if failure is not None and failure.retryable:
            raise CommandError(f"{failure} {left} spans wait.")
        if left:
            self.stdout.write(f"{left} spans wait: other processes send them, or this user may not use their files.")

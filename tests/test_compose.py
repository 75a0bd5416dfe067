"""Compare docker-compose.yml with the settings, because the tests run without Docker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from django_tracing.conf.loading import load
from example_project.servers import database_settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_both_services_send_to_the_jaeger_of_the_file() -> None:
    for name in ("api-gateway", "blueprint-service"):
        environment = SERVICES[name]["environment"]
        assert environment["SERVICE_NAME"] == name
        endpoint = environment["JAEGER_ENDPOINT"].split(":-")[1].rstrip("}")
        settings = load(None, {**environment, "JAEGER_ENDPOINT": endpoint})
        assert settings.problems == ()
        assert (settings.exporter, settings.endpoint) == ("otlp", "http://jaeger:4318/v1/traces")
        assert settings.query_url == "http://jaeger:16686"
        assert "jaeger" in SERVICES
        database = database_settings(environment["DATABASE_URL"])
        assert (database["HOST"], database["PASSWORD"]) == (
            "postgres",
            SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"],
        )


def test_the_gateway_listens_on_3000() -> None:
    assert SERVICES["api-gateway"]["ports"] == ["3000:3000"]
    assert "--bind 0.0.0.0:3000" in SERVICES["api-gateway"]["command"]


def test_the_old_all_in_one_has_its_ports_and_is_opt_in() -> None:
    old = SERVICES["jaeger-1.51"]
    assert old["profiles"] == ["jaeger-1.51"]
    assert old["image"].endswith(":1.51.0")
    assert old["environment"]["COLLECTOR_OTLP_ENABLED"] == "true"
    published = {port.split(":", 1)[1] for port in old["ports"]}
    assert {"16686", "14268", "14250", "6831/udp", "5778", "9411"} <= published


def test_what_the_image_builds_from_exists() -> None:
    assert (ROOT / COMPOSE["x-service"]["build"]["dockerfile"]).exists()

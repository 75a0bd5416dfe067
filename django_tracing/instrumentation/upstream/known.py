"""List OpenTelemetry's instrumentations, to tell one that is not installed from a name that is wrong."""

from __future__ import annotations

from typing import Final

__all__ = ["KNOWN"]

#: OpenTelemetry's instrumentations, by entry point. Any other name is a mistake, rather than not installed.
#: https://github.com/open-telemetry/opentelemetry-python-contrib/tree/main/instrumentation
KNOWN: Final = frozenset(
    [
        *("aio-pika", "aiohttp-client", "aiohttp-server", "aiokafka", "aiopg", "asgi", "asyncclick", "asyncio"),
        *("asyncpg", "boto", "boto3sqs", "botocore", "cassandra", "celery", "click", "confluent_kafka", "dbapi"),
        *("django", "elasticsearch", "falcon", "fastapi", "flask", "grpc_aio_client", "grpc_aio_server"),
        *("grpc_client", "grpc_server", "httpx", "jinja2", "kafka", "logging", "mysql", "mysqlclient", "pika"),
        *("psycopg", "psycopg2", "pymemcache", "pymongo", "pymssql", "pymysql", "pyramid", "redis", "remoulade"),
        *("requests", "sqlalchemy", "sqlite3", "starlette", "system_metrics", "threading", "tornado"),
        *("tortoiseorm", "urllib", "urllib3", "wsgi"),
    ]
)

#!/bin/sh
# Builds the wheel, installs it with nothing but what it requires, and traces a request with it.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m build --wheel --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
contents=$("$PYTHON" -m zipfile --list "$work"/dist/*.whl)
for file in py.typed static/django_tracing/tracing.js templates/admin/django_tracing/samplingrule/preview.html; do
	echo "$contents" | grep -q "django_tracing/$file" || { echo "$file is missing from the wheel"; exit 1; }
done
ls "$work"/dist/django_tracing_otel-*.whl >/dev/null || { echo "the wheel has another project's name"; exit 1; }
if echo "$contents" | grep -E "^(tests|example_project|benchmarks)/"; then echo "the wheel holds more than the package"; exit 1; fi

"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install "$work"/dist/*.whl
# As the hints say it: what is installed stays this project's, and the extra comes beside it.
"$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install --upgrade --find-links "$work/dist" "django-tracing-otel[otlp-grpc]"
"$work/venv/bin/python" -c "import grpc"
cd "$work"
mkdir site && cd site
cat >settings.py <<'PY'
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "x"
DEBUG = True
ROOT_URLCONF = "settings"
INSTALLED_APPS = ["django_tracing"]
MIDDLEWARE = []
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("hello/<name>", lambda request, name: HttpResponse(name))]
PY
cat >ask.py <<'PY'
import django
django.setup()
from django.test import Client
assert Client().get("/hello/ada").content == b"ada"
PY
export DJANGO_SETTINGS_MODULE=settings PYTHONPATH="$PWD"
unset JAEGER_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT || true
python="$work/venv/bin/python -W error"
$python ask.py
$python -m django check
$python -m django check_tracing >"$work/out" || { cat "$work/out"; exit 1; }
$python -m django traces >"$work/out"
grep -q "GET /hello/<name>" "$work/out" || { cat "$work/out"; echo "the installed wheel traced nothing"; exit 1; }
echo "the wheel works"

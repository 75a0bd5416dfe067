#!/bin/sh
# Builds the source distribution, and from it the wheel, installs this with nothing but what it requires, and traces a
# request with it.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m build --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
ls "$work"/dist/django_tracing_otel-*.whl >/dev/null || { echo "the wheel has another project's name"; exit 1; }
# Exactly the files of the package.
find django_tracing -name __pycache__ -prune -o -type f -print | LC_ALL=C sort >"$work/expected"
"$PYTHON" -m zipfile --list "$work"/dist/*.whl | sed -n 's/ .*//; /\.dist-info\//d; /\//p' | LC_ALL=C sort >"$work/found"
diff "$work/expected" "$work/found" || { echo "the wheel (>) has other files than django_tracing/ (<)"; exit 1; }
tar -tzf "$work"/dist/*.tar.gz | sed 's,^[^/]*/,,' >"$work/sources"
if grep -E "^(tests|docs|example_project|benchmarks)/." "$work/sources"; then echo "the source distribution has a part of these folders"; exit 1; fi
grep -qx CHANGELOG.md "$work/sources" || { echo "the source distribution has no CHANGELOG.md"; exit 1; }

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

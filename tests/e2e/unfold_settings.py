"""The demo's admin under django-unfold, a theme that replaces the admin's templates."""

from example_project.settings import *  # noqa: F403
from example_project.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = ["unfold", *INSTALLED_APPS]
# Its own templates hold inline styles and scripts.
MIDDLEWARE = [name for name in MIDDLEWARE if "csp" not in name]

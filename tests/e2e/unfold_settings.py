"""Settings of the demo with django-unfold, a theme that replaces the admin's templates."""

from example_project.settings import *  # noqa: F403
from example_project.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = ["unfold", *INSTALLED_APPS]
# Its templates contain inline styles and scripts.
MIDDLEWARE = [name for name in MIDDLEWARE if "csp" not in name]

"""A real Chromium in front of the console."""

from tests.e2e import conftest as e2e

session = e2e.session  # a fixture

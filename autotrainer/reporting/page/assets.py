"""The scripts and the stylesheet of a page, and the policy that lets it load nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

__all__ = ["LIBRARY", "LIBRARY_SHA256", "LIBRARY_VERSION", "SCRIPTS", "asset", "content_policy"]

LIBRARY = "echarts.min.js"
"""The charting library: ``dist/echarts.min.js`` of the package ``echarts`` of the npm registry, unchanged. Its license
is beside it: ``assets/LICENSE``, ``LICENSE-d3`` and ``NOTICE``."""

LIBRARY_VERSION = "6.1.0"
LIBRARY_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"

SCRIPTS = ("base.js", "curves.js", "layers.js", "attempts.js", "page.js")
"""Scripts of the report, in the order in which they are run after the library."""


@cache
def asset(name: str) -> str:
    """Return the text of a file of ``assets``."""
    return files(__package__).joinpath("assets", name).read_text("utf-8")


def content_policy(*scripts: str) -> str:
    """Return a content security policy: these inline scripts run, and nothing is loaded from anywhere.

    Args:
        scripts: Texts of the scripts.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

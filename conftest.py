"""Lets the tests run from a bare checkout, where the mapping of setup.cfg is not in force."""

from importlib.util import find_spec
from pathlib import Path

import autotrainer

if find_spec("autotrainer.rules") is None:
    autotrainer.__path__.append(str(Path(__file__).parent))

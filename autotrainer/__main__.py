"""``python -m autotrainer``."""

from __future__ import annotations

import sys

from autotrainer.cli import main

sys.exit(main())

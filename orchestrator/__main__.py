"""``python -m orchestrator`` is ``lab``."""

import sys

from orchestrator.doors.cli import main

sys.exit(main())

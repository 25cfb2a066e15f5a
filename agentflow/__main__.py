"""`python -m agentflow` is the command line."""

from __future__ import annotations

import sys

from agentflow.cli.main import main

sys.exit(main())

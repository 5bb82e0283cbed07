"""The orchestrator: runs for months and starts each task when it is due (RUN_ORCHESTRATOR.md)."""

import shared.prerequisites  # noqa: F401 - first: it tells of an old Python in one line

# isort: split
from shared.orchestrator_commands import main

if __name__ == "__main__":
    raise SystemExit(main())

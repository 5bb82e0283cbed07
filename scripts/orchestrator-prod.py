"""The orchestrator: runs for months and starts each task when it is due (RUN_ORCHESTRATOR.md)."""

import shared.prerequisites  # noqa: F401 - first: it tells of an old Python in one line

# isort: split
import signal

# A stop that comes before the loop can obey it waits until then.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

from shared.orchestrator_commands import main  # noqa: E402 - importing takes its time

if __name__ == "__main__":
    raise SystemExit(main())

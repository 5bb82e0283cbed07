"""Runs the orchestrator, which starts each task when it is due (RUN_ORCHESTRATOR.md)."""

import signal

# A stop signal that comes before the loop can handle it waits until then.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

import shared.base.prerequisites  # noqa: E402, F401 - first of ours: it reports an old Python in one line

# isort: split
from shared.loop.command_line import main  # noqa: E402 - importing takes its time

if __name__ == "__main__":
    raise SystemExit(main())

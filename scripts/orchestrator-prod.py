"""The orchestrator: runs for months and starts each task when it is due (RUN_ORCHESTRATOR.md)."""

from shared.orchestrator_commands import main

if __name__ == "__main__":
    raise SystemExit(main())

"""What the scripts' `main` functions share: how a failure is told, and which exit code it makes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared.errors import AppError, ConfigError, ExitCode

logger = logging.getLogger("script")


def exit_code_of(work: Callable[[], int]) -> int:
    """Do a script's work and return its exit code; what it raises is logged and made into one.

    A reader of standard output who has left (BrokenPipeError) is no failure and is raised on.
    """
    try:
        return work()
    except BrokenPipeError:
        raise
    except ConfigError as exc:
        for fault in exc.faults:
            logger.error("%s", fault, extra={"action": "bad_configuration"})
        return ExitCode.BAD_CONFIG
    except AppError as exc:
        logger.error("%s", exc, extra={"action": "run_failed", "kind": exc.kind})
        return exc.exit_code
    except Exception:  # a bug: logged with its traceback, told by the exit code
        logger.exception("a bug ended the run")
        return ExitCode.BUG

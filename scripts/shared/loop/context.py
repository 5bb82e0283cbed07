"""What the parts of the loop share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.loop.journal import Journal
from shared.loop.wall_clock import WallClock
from shared.settings import OrchestratorSettings


@dataclass(slots=True)
class Context:
    """The loop's settings and surroundings.

    settings: replaced on SIGHUP. still_acts: asks the database whether this orchestrator is the active one.
    is_stopping: whether a signal has asked to stop. env_file: as given on the command line. environment: of
    this process, without the variables that systemd sets for the loop only.
    """

    settings: OrchestratorSettings
    clock: WallClock
    journal: Journal
    still_acts: Callable[[], bool]
    is_stopping: Callable[[], bool]
    host: str
    env_file: Path | None
    environment: Mapping[str, str]

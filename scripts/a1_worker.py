"""Works on the campaigns that runs have queued (ENGINE=procrastinate), until it is stopped.

Any number of workers may run, on any number of hosts.
"""

import shared.base.prerequisites as prerequisites  # first: it reports an old Python in one line

# isort: split
import argparse
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from shared.base.errors import ConfigError
from shared.base.logs import configure_logging, new_run_id
from shared.base.script import exit_code_of, prepare_streams
from shared.loop.service_manager import ServiceManager
from shared.settings import load_settings, read_environment

logger = logging.getLogger("worker")


def run(arguments: argparse.Namespace, run_id: str) -> int:
    """Read the settings, and work until a stop or a drain."""
    settings = load_settings(read_environment(arguments.env_file), arguments.dam_auth)
    configure_logging(
        settings.log.format,
        "DEBUG" if arguments.verbose else settings.log.level,
        run_id=run_id,
        secrets=settings.secrets,
    )
    if settings.engine.is_local:
        raise ConfigError("ENGINE: is local, so runs leave nothing to workers; set ENGINE=procrastinate")
    prerequisites.require(prerequisites.SCALE_PACKAGES, "requirements-scale.txt")
    from shared.scale.engine import Identity
    from shared.scale.worker import CampaignWorker

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    host = socket.gethostname()
    # PostgreSQL keeps only 63 bytes.
    identity = Identity(f"a1_to_a2 worker {run_id} {host}:{os.getpid()}"[:63], host, datetime.now(UTC))
    logger.info("%s begins", identity.name, extra={"action": "worker_began"})
    code = CampaignWorker(
        settings,
        identity,
        run_id,
        clock=lambda: datetime.now(UTC),
        service=ServiceManager(os.environ),
        stop=stop,
    ).run()
    logger.info("%s ends", identity.name, extra={"action": "worker_ended"})
    return code


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(
        prog="a1_worker.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    way_in = parser.add_mutually_exclusive_group()
    way_in.add_argument(
        "--auth-pfx-v2", dest="dam_auth", action="store_const", const="pfx-v2",
        help="client certificate and OAuth token (overrides DAM_AUTH)",
    )  # fmt: skip
    way_in.add_argument(
        "--auth-password", dest="dam_auth", action="store_const", const="password",
        help="session login (overrides DAM_AUTH)",
    )  # fmt: skip
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read the settings from this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level DEBUG")
    arguments = parser.parse_args(argv)
    run_id = new_run_id()
    configure_logging("text", "INFO", run_id=run_id, secrets=())
    return exit_code_of(lambda: run(arguments, run_id))


if __name__ == "__main__":
    raise SystemExit(main())

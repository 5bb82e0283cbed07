"""Opens what uploads need in addition to the DAM: Box, the workers, and a database connection for the
workers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Self

from shared.base.values import BoxSettings, TransferSettings
from shared.database import Database
from shared.http.ahead import quietly
from shared.upload.box_users import open_box
from shared.upload.buckets import Buckets
from shared.upload.copier import Copier
from shared.upload.download import DIRECT_UPLOAD_LIMIT, Source
from shared.upload.ledger import Ledger
from shared.upload.limiter import stoppable_sleep
from shared.upload.progress import Progress
from shared.upload.workers import Job, Pool


class BoxSide:
    """Box and the workers. Made only when there is something to upload: it costs more than an idle run."""

    def __init__(
        self,
        box: BoxSettings,
        limits: TransferSettings,
        database: Database,
        open_ledger: Callable[[], Database],
        progress: Progress,
        *,
        run_id: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        """database: the run's own. open_ledger: opens a connection that waits neither for the run's
        transactions nor for the disk.
        """
        self._progress = progress
        self._run_id = run_id
        self._is_stopping = is_stopping
        with ExitStack() as resources:
            self._ledger = resources.enter_context(open_ledger())
            users = open_box(
                box,
                limits,
                Buckets(self._ledger.holding(database)),
                sleep=stoppable_sleep(is_stopping),
                on_pause=progress.throttled,
            )
            self._box = resources.enter_context(closing(users))
            pool = Pool(limits.workers, limits.memory_bytes, reserve_bytes=DIRECT_UPLOAD_LIMIT)
            self._pool = resources.enter_context(pool)
            self._resources = resources.pop_all()  # from here on `__exit__` closes them
        self._pool.submit(
            "", Job(0, partial(quietly, self._box.account.log_in))
        )  # at the same time as other work

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def copier(self, dam: Source, database: Database) -> Copier:
        """The copier of one campaign. database: its writes, and each call to Box, check that we still hold
        it.
        """
        return Copier(
            dam,
            self._box.guarded(database.ensure_held),
            Ledger(self._ledger.holding(database)),
            self._pool,
            self._progress,
            run_id=self._run_id,
            is_stopping=self._is_stopping,
        )

"""Opens Box for each user of BOX_USERS, and knows which of them does what.

Box's limits are for each user, so more users may do more per minute. They share one login, that of the
service account, and one set of connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from shared.base.values import BoxSettings, TransferSettings
from shared.box.client import BoxClient
from shared.rules.users import user_for
from shared.upload.limiter import BoxGate, RateLedger


@dataclass(frozen=True, slots=True)
class BoxUsers:
    """account: the service account's client. by_id: the client of each user; empty: the service account does
    everything itself.
    """

    account: BoxClient
    by_id: Mapping[str, BoxClient]

    def of(self, item_id: str) -> BoxClient:
        """The client of the user who does an asset's file, or everything else of a campaign."""
        return self.by_id[user_for(item_id, self.by_id)] if self.by_id else self.account

    def guarded(self, ensure_held: Callable[[], None]) -> Self:
        """The same clients. ensure_held is called before each call; if it raises, the call is not made."""
        by_id = {user: client.guarded(ensure_held) for user, client in self.by_id.items()}
        return type(self)(self.account.guarded(ensure_held), by_id)

    def close(self) -> None:
        """Drop the connections, which all clients share."""
        self.account.close()


def open_box(
    box: BoxSettings,
    limits: TransferSettings,
    ledger: RateLedger,
    *,
    sleep: Callable[[float], None] = time.sleep,
    on_pause: Callable[[], None] = lambda: None,
) -> BoxUsers:
    """The clients for the settings; each user has limits of its own. Makes no call. Raises ConfigError.

    sleep: waits; may raise StoppedError. on_pause: called each time Box asks for a pause.
    """

    def gate(user: str = "") -> BoxGate:
        return BoxGate(
            ledger,
            uploads_per_minute=limits.uploads_per_minute,
            calls_per_minute=limits.calls_per_minute,
            user=user,
            sleep=sleep,
            on_pause=on_pause,
        )

    account = BoxClient(box, gate(), sleep)
    return BoxUsers(account, {user: account.as_user(user, gate(user)) for user in box.users})

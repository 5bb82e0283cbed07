"""Defines webhook targets, as the settings describe them, and the types of events. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

WebhookKind = Literal["standard", "pagerduty", "slack", "teams", "jira", "servicenow"]
KINDS: tuple[WebhookKind, ...] = ("standard", "pagerduty", "slack", "teams", "jira", "servicenow")
INCIDENT_KINDS: tuple[WebhookKind, ...] = ("pagerduty", "jira", "servicenow")
"""These kinds open and close an incident. The others get a message for each event."""


class EventType(StrEnum):
    """What a webhook reports: the `type` of the `standard` payload."""

    PERMANENTLY_FAILED = "campaign.permanently_failed"
    RECOVERED = "campaign.recovered"
    RESET = "campaign.reset"
    SNOOZED = "campaign.snoozed"
    ERRING = "campaign.erring"
    TASK_FAILING = "task.failing"
    TASK_RECOVERED = "task.recovered"
    TEST = "webhook.test"


OPENING = (EventType.PERMANENTLY_FAILED, EventType.ERRING, EventType.TASK_FAILING)
"""Events that open an incident."""
CLOSING = (EventType.RECOVERED, EventType.RESET, EventType.TASK_RECOVERED)
"""Events that close an incident."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """One receiver. name: in lower case; the recipient of its deliveries. events: patterns of event types.

    secrets: for `standard` one key, or during a change two, the new one first; for `pagerduty` the routing
    key; for `jira` and `servicenow` `user:password`; for the others nothing, because their address is the
    secret.
    """

    name: str
    kind: WebhookKind
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    events: tuple[str, ...] = ("campaign.*",)

    @property
    def hidden(self) -> tuple[str, ...]:
        """What no text may show: the address, its path, the secrets and their parts."""
        place = "/" + self.url.partition("//")[2].partition("/")[2]
        parts = (part for one in self.secrets for part in (one.removeprefix("whsec_"), one.partition(":")[2]))
        return tuple(filter(None, (self.url, place if len(place) > 12 else "", *self.secrets, *parts)))

    @property
    def opens_incidents(self) -> bool:
        return self.kind in INCIDENT_KINDS

    def wants(self, event: EventType) -> bool:
        """Whether the target gets this event. A snooze does not change an incident."""
        if event is EventType.TEST:
            return True
        is_of_use = not self.opens_incidents or event in (*OPENING, *CLOSING)
        return is_of_use and any(fnmatchcase(event, pattern) for pattern in self.events)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """All receivers. installation: the beginning of each dedup key. allows_private: whether private
    addresses, and http to them, are allowed.
    """

    targets: tuple[WebhookTarget, ...] = ()
    installation: str = "a1-to-a2"
    allows_private: bool = False


NO_WEBHOOKS = WebhookSettings()

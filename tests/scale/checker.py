"""What must hold with workers on several hosts, read from the systems and PostgreSQL at any moment."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from crash.checker import Checker
from scale.systems import Effect, HostedSystems, Note


class ScaleChecker(Checker):
    """The checker of the storm, for workers that nobody waits for.

    on_their_way: after a host lost a campaign, how many requests of its may still arrive: those that had
    passed the check, at most one for each thread that sends, and one for the campaign's own.
    """

    def __init__(self, systems: HostedSystems, *, on_their_way: int) -> None:
        super().__init__(systems, may_fail=True)
        self._systems = systems
        self._on_their_way = on_their_way
        self.late: Counter[str] = Counter()
        """Requests that arrived after their host had lost the campaign, by what they were."""
        self.filled_at: dict[str, float] = {}
        """When somebody put a file into a folder that had been empty: {campaign: seconds since the epoch}."""

    def look(self) -> list[str]:
        """What must hold at every moment, whoever is working."""
        with self._systems.snapshot():
            found = [*self._attempts(), *self._notices()]
        return [*found, *self._bytes(is_settled=False)]

    def at_the_end(self) -> list[str]:
        """What must hold once nothing is left to do, over the whole play."""
        return [*self.look(), *self.settled(), *self._all_arrived(), *self._proofs(), *self._one_at_a_time()]

    def _attempts(self) -> Iterator[str]:
        """Learn the counts. A success resets them, so those of the past come from the history."""
        rows = self._systems.rows("SELECT campaign_id, coalesce(a1_retry_count, 0) FROM campaign_status")
        self.attempts |= dict(rows)
        self._counted = Counter(
            row[0]
            for row in self._systems.rows("SELECT campaign_id FROM campaign_events WHERE kind = 'attempt'")
        )
        for one in self._systems.wanted.values():
            if one.files and self._counted[one.id] and one.id not in self.filled_at:
                yield f"{one.folder}: {self._counted[one.id]} attempts counted, and it was never empty"

    def _all_arrived(self) -> Iterator[str]:
        """Each campaign without files has had its last attempt; nobody is at work, nothing waits."""
        rows = self._systems.rows("SELECT campaign_id FROM campaign_status WHERE a1_permanently_failed")
        failed = {row[0] for row in rows}
        for one in self._systems.wanted.values():
            if (one.id in failed) == bool(one.files):
                yield f"{one.folder}: {'' if one.id in failed else 'not '}permanently failed"
        for row in self._systems.rows("SELECT campaign_id, worker FROM worker_campaigns"):
            yield f"still on a worker's record: {row}"

    def _proofs(self) -> Iterator[str]:
        """Each attempt was counted by the host that had the campaign, after a whole and empty listing that it
        had got since it took it, and that no other attempt has used.
        """
        takes = by_campaign(self._systems.takes())
        listings: dict[str, list[tuple[float, str]]] = {}
        for call in self._systems.dam.requests:
            if call.path.endswith("/children") and call.status == 200:
                listings.setdefault(call.path.split("/")[-2], []).append((call.at, call.client_host))
        for attempt in self._systems.attempts():
            one = self._systems.wanted[attempt.campaign]
            owner = _last(takes.get(one.id, []), attempt.at)
            if owner is None or owner.holder != attempt.holder:
                yield f"{one.folder}: {attempt} was counted, and the campaign was of {owner}"
                continue
            until = min(attempt.at, self.filled_at.get(one.id, attempt.at))
            proofs = listings.get(one.listed_folder, [])
            proof = next((p for p in proofs if p[1] == owner.host and owner.at <= p[0] <= until), None)
            if proof is None:
                yield f"{one.folder}: {attempt} was counted, and nothing proves it"
            else:
                proofs.remove(proof)

    def _one_at_a_time(self) -> Iterator[str]:
        """No effect by a host that did not have the campaign, but for what was on its way when it lost it."""
        takes = by_campaign(self._systems.takes())
        late: dict[Note, list[Effect]] = {}
        for effect in self._systems.effects():
            if not effect.campaign:
                continue
            folder = self._systems.wanted[effect.campaign].folder
            of_campaign = takes.get(effect.campaign, [])
            owner = _last(of_campaign, effect.at)
            if owner is None or not any(
                take.host == effect.host and take.at <= effect.at for take in of_campaign
            ):
                yield f"{folder}: {effect.what} by {effect.host}, which never had it"
            elif owner.host != effect.host:
                self.late[effect.what] += 1
                late.setdefault(owner, []).append(effect)
        for owner, effects in late.items():
            if len(effects) > self._on_their_way:
                yield (
                    f"{self._systems.wanted[owner.campaign].folder}: {len(effects)} effects by others after"
                    f" {owner.host} took it, at most {self._on_their_way} could be on their way: {effects}"
                )


def by_campaign(takes: list[Note]) -> dict[str, list[Note]]:
    """In order."""
    found: dict[str, list[Note]] = {}
    for take in takes:
        found.setdefault(take.campaign, []).append(take)
    return found


def _last(takes: list[Note], at: float) -> Note | None:
    """The newest at that time."""
    place = bisect_right(takes, at, key=lambda take: take.at)
    return takes[place - 1] if place else None

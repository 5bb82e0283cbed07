"""The systems as hosts use them: over TLS, with a delay, and with a record of who had which effect."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trustme

from crash.systems import Systems
from simulators.box import BoxSimulator
from simulators.box_gate import TOKEN_PATH
from simulators.box_store import RefusedError
from simulators.box_wire import Answer, Call
from simulators.dam import DamSimulator, Request
from simulators.dam_http import Response
from simulators.mail import MailSink

ASSET_ID = re.compile(r"\b[0-9a-f]{40}\b")
SESSION = re.compile(r"/upload_sessions/(\w+)")

# Who took which campaign, and when: campaign_epochs has only the newest. And who counted which attempt, and
# when: the history has the time at which its run began.
RECORDS = """
CREATE TABLE proof_takes (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    campaign_id TEXT, holder TEXT, host TEXT, at TIMESTAMP WITH TIME ZONE
);
CREATE TABLE proof_attempts (LIKE proof_takes INCLUDING ALL);
CREATE FUNCTION proof_note() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I (campaign_id, holder, host, at) VALUES ($1, $2, $3, $4)', TG_ARGV[0])
    USING NEW.campaign_id, current_setting('application_name'), host(inet_client_addr()), clock_timestamp();
    RETURN NULL;
END
$$;
CREATE TRIGGER proof_note AFTER INSERT OR UPDATE ON campaign_epochs
    FOR EACH ROW EXECUTE FUNCTION proof_note('proof_takes');
CREATE TRIGGER proof_note AFTER INSERT ON campaign_events
    FOR EACH ROW WHEN (NEW.kind = 'attempt') EXECUTE FUNCTION proof_note('proof_attempts');
"""
# What a host has: campaigns that it was the last to take, and that a worker has on record.
HELD = """
SELECT t.campaign_id FROM (
    SELECT DISTINCT ON (campaign_id) campaign_id, host FROM proof_takes ORDER BY campaign_id, id DESC
) t JOIN worker_campaigns USING (campaign_id) WHERE t.host = %s
"""


@dataclass(frozen=True)
class Effect:
    """A change in Box or in the DAM. host: the address that asked for it. campaign: its folder in Box."""

    at: float
    host: str
    campaign: str
    what: str


@dataclass(frozen=True)
class Note:
    """A host took a campaign, or counted an attempt of it. holder: the name of its connection."""

    at: float
    host: str
    campaign: str
    holder: str


class SlowDam(DamSimulator):
    """The DAM, some time away."""

    delay_seconds = 0.0

    def answer(self, request: Request) -> Response:
        self.stopping.wait(self.delay_seconds)
        return super().answer(request)


class RecordingBox(BoxSimulator):
    """Box, some time away, with a record of what changed in it."""

    delay_seconds = 0.0

    def __init__(self, host: str, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(host=host, ssl_context=ssl_context)
        self.effects: list[Effect] = []

    def _answer_truly(self, call: Call) -> Answer:
        self._stopping.wait(self.delay_seconds)
        session = SESSION.search(call.path)
        campaign = self._campaign_of_session(session[1]) if session else ""
        answer = super()._answer_truly(call)
        if call.method != "GET" and call.path != TOKEN_PATH and 200 <= answer.status < 300:
            campaign = campaign or self._campaign_of_answer(answer)
            self.effects.append(Effect(time.time(), call.client[0], campaign, f"Box {call.method}"))
        return answer

    def _campaign_of_session(self, session_id: str) -> str:
        """Whose file an upload session is for; "" when it is gone."""
        session = next((one for one in self.open_sessions() if one.id == session_id.upper()), None)
        if session is None:
            return ""
        if session.file_id:
            return self._campaign_of("file", session.file_id)
        return self._campaign_of("folder", session.folder_id)

    def _campaign_of_answer(self, answer: Answer) -> str:
        document: dict[str, Any] = json.loads(answer.body or b"{}")
        shown = document.get("entries", [document])[0]
        if shown.get("type") == "upload_session":
            return self._campaign_of_session(str(shown["id"]))
        return self._campaign_of(str(shown.get("type")), shown.get("id"))

    def _campaign_of(self, kind: str, item_id: object) -> str:
        """The folder below the agency's; "" for what is gone."""
        with self._store.lock:
            try:
                path = self._store.path(self._store.item(kind, item_id))
            except RefusedError:
                return ""
        return path.split("/")[1] if "/" in path else ""


class HostedSystems(Systems):
    """On the address of a network of hosts, over TLS; the database keeps a record of who took what."""

    def __init__(self, database_url: str, address: str, authority: trustme.CA, folder: Path) -> None:
        """folder: for the authority's certificate."""
        self._address = address
        self._certificate = authority.issue_cert(address)
        self._ca_path = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self._ca_path))
        mail = MailSink(host=address, security="tls", ssl_context=self._server_context())
        super().__init__(database_url, mail)
        self.rows(RECORDS)

    def _server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._certificate.configure_cert(context)
        return context

    def new_dam(self) -> SlowDam:
        self.slow_dam = SlowDam(host=self._address, ssl_context=self._server_context())
        return self.slow_dam

    def new_box(self) -> RecordingBox:
        self.recording_box = RecordingBox(self._address, self._server_context())
        return self.recording_box

    def environment(self) -> dict[str, str]:
        bundles = ("DAM_CA_BUNDLE", "BOX_CA_BUNDLE", "SMTP_CA_BUNDLE")
        return super().environment() | dict.fromkeys(bundles, str(self._ca_path)) | {"DB_SSLMODE": "disable"}

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All statements in it see the database at one moment."""
        self.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            self.rows("COMMIT")

    def takes(self) -> list[Note]:
        """Who took which campaign, in order."""
        return self._notes("proof_takes")

    def attempts(self) -> list[Note]:
        """Who counted an attempt, in order."""
        return self._notes("proof_attempts")

    def _notes(self, table: str) -> list[Note]:
        columns = "extract(epoch FROM at)::float, host, campaign_id, holder"
        rows = self.rows(f"SELECT {columns} FROM {table} ORDER BY id")  # noqa: S608 - one of our two
        return [Note(*row) for row in rows]

    def held_by(self, host: str) -> set[str]:
        """The campaigns on which the host's worker works now."""
        return {row[0] for row in self.rows(HELD, host)}

    def effects(self) -> list[Effect]:
        """In Box and in the DAM, in order of time; campaign: its id."""
        ids = {one.folder: one.id for one in self.wanted.values()}
        in_box = [
            replace(effect, campaign=ids.get(effect.campaign, "")) for effect in self.recording_box.effects
        ]
        in_dam = [
            Effect(call.at, call.client_host, found[0], f"DAM {call.method}")
            for call in self.dam.requests
            if call.method == "PATCH" or (call.path.endswith("/state") and call.method != "GET")
            for found in [ASSET_ID.findall(call.path)]
            if found and call.status < 300
        ]
        return sorted([*in_box, *in_dam], key=lambda effect: effect.at)

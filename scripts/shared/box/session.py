"""Keeps one session with Box as its service account: every call has a valid token.

We do not use Box's SDK: importing it takes longer than an idle run, it sends a JWT assertion again after a
429, it only reads `Retry-After` in seconds, and it needs several times the processor time per call
(MARKDOWN_DOCS/TRANSFER.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace

from shared.base.errors import BoxError
from shared.box.calls import Answer, BoxCalls, Gate, Request
from shared.box.login import BoxLogin
from shared.box.refusals import error_of, may_pass
from shared.http.client import Pieces
from shared.http.guards import ANSWER_LIMIT, UnfitError, origin_of

BOX_DOMAIN = ".box.com"


class BoxSession:
    """One session with Box, shared by all threads. Raises BoxError for failures of Box.

    `BoxCalls` repeats calls, so a write whose answer was lost may be sent twice; an expired token is renewed
    once for all threads.
    """

    def __init__(self, calls: BoxCalls) -> None:
        self.calls = calls
        self.login = BoxLogin(calls)
        self._ensure_held: Callable[[], None] = lambda: None
        self._user = ""

    def guarded(self, ensure_held: Callable[[], None]) -> BoxSession:
        """The same session. ensure_held is called before each call; if it raises, the call is not made."""
        twin = copy(self)
        twin._ensure_held = ensure_held
        return twin

    def as_user(self, user: str, gate: Gate) -> BoxSession:
        """The same login; a user of Box makes the calls, within limits of its own."""
        twin = copy(self)
        twin.calls = self.calls.within(gate)
        twin._user = user
        return twin

    def trusts(self, url: str) -> bool:
        """Whether an address may get our token: one from the settings, or Box's own if they point to Box."""
        settings = self.calls.settings
        try:
            ours = {origin_of(settings.api_url), origin_of(settings.upload_url)}
            scheme, host, port = origin_of(url)
        except UnfitError:
            return False
        is_box = any(known.endswith(BOX_DOMAIN) for _, known, _ in ours)
        return (scheme, host, port) in ours or (
            is_box and (scheme, port) == ("https", 443) and host.endswith(BOX_DOMAIN)
        )

    def call(
        self,
        method: str,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str] | None = None,
        json_body: object = None,
        pieces: Pieces = (),
        is_upload: bool = False,
        limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """One call; returns a success or a redirection. Raises BoxError, including NameTakenError.

        pieces: bytes of files, sent one after another. limit: the most bytes of an answer that are read.
        """
        sent, body = dict(headers or {}), b""
        if self._user:
            sent["As-User"] = self._user
        if json_body is not None:
            sent["Content-Type"] = "application/json"
            body = json.dumps(json_body).encode()
        if not self.trusts(url):
            raise BoxError(f"{what}: no token is sent to {url!r:.200}", kind="foreign_address")
        request = Request(method, url, sent, body, pieces, limit)
        for _ in range(2):
            token = self.login.token()

            def authorized(token: str = token) -> Request:
                self.calls.gate.wait(is_upload=is_upload)
                self._ensure_held()
                return replace(request, headers={**sent, "Authorization": f"Bearer {token}"})

            answer = self.calls.ask(what, authorized, may_pass=may_pass)
            if answer.status != 401:
                break
            self.login.forget(token)
        if 200 <= answer.status < 300 or answer.status == 302:
            return answer
        raise error_of(answer, what, self.login.secrets, self._user)

    def fetch(self, url: str, *, what: str, limit: int) -> bytes:
        """Read an address to which Box redirected; it does not get our token, and it must be https."""
        if self.calls.settings.api_url.startswith("https:") and not url.startswith("https://"):
            raise BoxError(f"{what}: Box redirects from https to {url!r:.200}", kind="foreign_address")
        answer = self.calls.ask(what, lambda: Request("GET", url, {}, limit=limit), may_pass=may_pass)
        if answer.status != 200:
            raise error_of(answer, what, self.login.secrets)
        return answer.content

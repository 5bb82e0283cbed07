"""Keeps one session with the DAM: every call is logged in, and a login that has ended is renewed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any
from urllib.parse import urlencode

from shared.base.errors import DamError
from shared.dam.calls import API, FORM, Answer, Call, Calls
from shared.dam.faults import not_logged_in
from shared.dam.login import Login
from shared.http.guards import within

MOST_CALLS_AT_ONCE = 8
"""The most simultaneous calls, not counting downloads: the DAM also serves its users."""
REPEATABLE_METHODS = ("GET", "PUT", "DELETE")


class DamSession:
    """One session with the DAM, shared by all threads.

    `Calls` repeats calls; a login that has ended is renewed once per call, and once for all threads. `what`
    says, in errors, what we were doing.
    """

    def __init__(self, calls: Calls) -> None:
        self.settings = calls.settings
        self.calls = calls
        self.login = Login(calls)
        self._at_once = threading.Semaphore(MOST_CALLS_AT_ONCE)
        self._ensure_held: Callable[[], None] = lambda: None

    def guarded(self, ensure_held: Callable[[], None]) -> DamSession:
        """The same session. ensure_held is called before each try of a write; if it raises, the try is not
        made.
        """
        twin = copy(self)
        twin._ensure_held = ensure_held
        return twin

    def close(self) -> None:
        """Log out and drop the connections."""
        self.login.log_out()
        self.calls.close()

    def url(self, path: str) -> str:
        """The address of a resource."""
        return f"{self.settings.base_url}{API}{path}"

    def read_json(
        self,
        method: str,
        path: str,
        *,
        what: str,
        item_id: str | None = None,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """A read whose answer is a JSON object. A search's POST changes nothing, so it is repeated too."""
        url = self.url(path) + (f"?{urlencode(params)}" if params else "")
        call = Call(method, url, what, item_id)
        if data is not None:
            call = Call(method, url, what, item_id, FORM, urlencode(data).encode())
        answer = self._ask(call)
        answer.raise_for_status()
        found = answer.mapping
        if found is None:
            raise DamError(
                f"{what}: the DAM answered {answer.status} without usable JSON ({len(answer.body)} bytes)",
                kind="bad_answer",
                retryable=True,
                item_id=item_id,
                status_code=answer.status,
            )
        answer.raise_for_failure()
        return found

    def write(
        self,
        method: str,
        path: str,
        *,
        what: str,
        item_id: str,
        data: Mapping[str, str] | None = None,
        json_body: object = None,
    ) -> dict[str, Any]:
        """Make a write; returns its answer as a mapping, {} for a success without JSON."""
        headers, body = FORM, urlencode(data or {}).encode()
        if data is None:
            headers, body = {"Content-Type": "application/json"}, json.dumps(json_body).encode()
        is_repeatable = method in REPEATABLE_METHODS
        url, before = self.url(path), self._ensure_held
        call = Call(method, url, what, item_id, headers, body, is_repeatable, before_try=before)
        answer = self._ask(call)
        answer.raise_for_failure()
        return answer.mapping or {}

    def own_login(self) -> str:
        """Our login name, which the DAM writes into our locks."""
        if self.settings.username:
            return self.settings.username
        try:
            answer = self.read_json("GET", "/sessions", what="reading our session")
        except DamError:
            return ""
        return str(within(answer, "session_resource", "session", "login_name") or "")

    def _ask(self, call: Call) -> Answer:
        for _ in range(2):
            login = self.login.ensure()
            with self._at_once:
                answer = self.calls.ask(call, self.login.credentials)
            self.login.remember_cookies(answer.headers)
            if not answer.is_session_over:
                return answer
            self.login.forget(login)
        raise not_logged_in(call, answer.status)

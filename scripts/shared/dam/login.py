"""Logs in to the DAM: by a token or a session login, with its cookies, and explains refusals."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from http.client import HTTPMessage
from typing import Any
from urllib.parse import urlencode, urlsplit

from shared.base.errors import AppError, DamError
from shared.dam.answers import mapping
from shared.dam.calls import API, FORM, Answer, Call, Calls, Credentials
from shared.http.guards import within

logger = logging.getLogger(__name__)

LONGEST_COOKIES = 8192
"""The most bytes of all cookies together; servers refuse more in one request."""

_LOGIN_REFUSAL = r"(?i)credential|password|authenti|log-?in|logon|invalid[ _](?:user|grant|client)"
_COOKIE = re.compile(r"[!-:<>-~]+=[ -:<-~]*")


class Login:
    """Our login to the DAM, shared by all threads: made when it is first needed, and only once."""

    def __init__(self, calls: Calls) -> None:
        self._settings = calls.settings
        self._calls = calls
        self._lock = threading.Lock()
        self._number = 0
        self._is_valid = False
        self._headers: dict[str, str] = {}
        self._cookies: dict[str, str] = {}

    def ensure(self) -> int:
        """Log in unless we are logged in; returns the number of the valid login. Raises DamError,
        ConfigError.
        """
        with self._lock:
            if not self._is_valid:
                self._headers, self._cookies = {}, {}
                if self._settings.auth == "password":
                    # A session's cookie alone is not enough for writes (MARKDOWN_DOCS/DAM_AND_BOX.md).
                    self._headers = {"X-Requested-By": self._open_session()}
                else:
                    self._headers = {"Authorization": f"Bearer {self._fetch_token()}"}
                self._number += 1
                self._is_valid = True
            return self._number

    def forget(self, number: int) -> None:
        """Note that this login has ended; does nothing when there is a newer one."""
        with self._lock:
            self._is_valid = self._is_valid and self._number != number

    @property
    def credentials(self) -> Credentials:
        """The headers for calls."""
        settings, cookies = self._settings, self._cookies
        known = (settings.client_secret, settings.password, settings.pfx_password)
        live = [word for text in (*self._headers.values(), *cookies.values()) for word in text.split()]
        line = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return Credentials(
            self._headers | ({"Cookie": line} if line else {}),
            tuple(secret for secret in (*known, *live) if secret),
        )

    def remember_cookies(self, headers: HTTPMessage) -> None:
        """Keep the cookies: a session login needs them, and with a token they may tie us to one node of a
        cluster.

        Invalid cookies are dropped, and so are those that would make requests too long.
        """
        for line in headers.get_all("Set-Cookie") or ():
            pair = str(line).partition(";")[0].strip()
            name, _, value = pair.partition("=")
            cookies = {**self._cookies, name: value}
            if _COOKIE.fullmatch(pair) and sum(map(len, (*cookies, *cookies.values()))) <= LONGEST_COOKIES:
                self._cookies = cookies

    def log_out(self) -> None:
        """End a session login, which the DAM would otherwise keep open for a long time."""
        if self._number and self._settings.auth == "password":
            call = Call(
                "DELETE", f"{self._settings.base_url}{API}/sessions", "logging out", is_repeatable=False
            )
            try:
                self._calls.ask(call, self.credentials)
            except AppError as exc:
                logger.debug("%s", exc)

    def _fetch_token(self) -> str:
        settings = self._settings
        form = {"client_id": settings.client_id, "client_secret": settings.client_secret or ""}
        if settings.username:
            form |= {
                "grant_type": "password",
                "username": settings.username,
                "password": settings.password or "",
            }
        else:
            form["grant_type"] = "client_credentials"
        answer = self._logged_in(settings.token_url, form)
        own = within(answer, "token_info", "oauth_token")
        found = own.get("accessToken") if isinstance(own, dict) else answer.get("access_token")
        if not isinstance(found, str) or not found:
            raise DamError(
                f"{_shown_url(settings.token_url)} answered without an access token",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
            )
        return found

    def _open_session(self) -> str:
        """The id of a new session."""
        form = {"username": self._settings.username, "password": self._settings.password or ""}
        answer = self._logged_in(f"{self._settings.base_url}{API}/sessions", form)
        session = mapping(mapping(answer, "session_resource", "logging in"), "session", "logging in")
        return str(session.get("id", ""))

    def _logged_in(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object that answers a login."""
        what = f"logging in to {_shown_url(url)}"
        answer = self._calls.ask(
            Call("POST", url, what, headers=FORM, body=urlencode(form).encode()), self.credentials
        )
        if self._calls.is_dam(url):
            self.remember_cookies(answer.headers)
        if _refuses_login(answer):
            raise self._login_refused(answer)
        if answer.status in (404, 405, 410):
            raise DamError(
                f"{what}: HTTP {answer.status}, there is no DAM at this address",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
                status_code=answer.status,
            )
        answer.raise_for_status()
        found = answer.mapping
        if found is None or answer.exception_body is not None:
            raise DamError(
                f"{what}: HTTP {answer.status}, {answer.said or 'without JSON, like the answer of a proxy'}",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
                retryable=True,
            )
        return found

    def _login_refused(self, answer: Answer) -> DamError:
        shown = "its login page" if answer.is_html else f"HTTP {answer.status}"
        where = f", and {self._address_variable}" if answer.is_html else ""
        said = f", {answer.said}" if answer.said else ""
        return DamError(
            f"{answer.call.what}: the DAM refused the credentials ({shown}{said})",
            kind="login_refused",
            hint=f"check {self._credential_variables(answer)}{where}",
            status_code=answer.status,
        )

    @property
    def _address_variable(self) -> str:
        """The variable with the login's address."""
        settings = self._settings
        is_default = settings.token_url.startswith(f"{settings.base_url}/") or settings.auth == "password"
        return "DAM_BASE_URL" if is_default else "DAM_TOKEN_URL"

    def _credential_variables(self, refusal: Answer) -> str:
        """The variables that may be wrong: OAuth distinguishes the client and the user."""
        user, client = "DAM_USERNAME and DAM_PASSWORD", "DAM_CLIENT_ID and DAM_CLIENT_SECRET"
        if self._settings.auth == "password":
            return user
        if not self._settings.username or b"invalid_client" in refusal.body:
            return client
        return user if b"invalid_grant" in refusal.body else f"{user}, {client}"


def _refuses_login(answer: Answer) -> bool:
    """Some versions answer a wrong password with an error 500, and gateways with their login page
    (MARKDOWN_DOCS/DAM_AND_BOX.md).
    """
    if answer.status in (400, 403) or answer.is_session_over:
        return True
    return answer.exception_body is not None and bool(re.search(_LOGIN_REFUSAL, answer.said))


def _shown_url(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"

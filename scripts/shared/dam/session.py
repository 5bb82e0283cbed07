"""The DAM's wire: logging in, keeping the session, and telling apart the ways in which a call fails."""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPMessage
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from shared.base.errors import ConfigError, DamError
from shared.base.redaction import redact, spellings
from shared.base.values import DamSettings
from shared.dam.answers import clean_text, mapping
from shared.dam.certificate import client_context, dam_context
from shared.http.wire import (
    LONGEST_WAIT_SECONDS,
    NoAnswerError,
    ProxyError,
    ProxyTroubleError,
    Reply,
    UnfitError,
    Wire,
    backoff_seconds,
    certificate_fault,
    json_object,
    origin_of,
    retry_after_seconds,
)

logger = logging.getLogger(__name__)


API = "/otmmapi/v6"
READ_TRIES = 3
MOST_CALLS_AT_ONCE = 8
"""What the DAM is asked at once, downloads not counted: its users are there as well."""
LONGEST_REDIRECTION = 5
SKIP_BLOCK = 1024 * 1024
OUT_OF_REACH_STATUSES = (429, 502, 503, 504)
RETRIED_STATUSES = (500, *OUT_OF_REACH_STATUSES)
REDIRECTS = (301, 302, 303, 307, 308)
REPEATABLE_METHODS = ("GET", "PUT", "DELETE")
AGENT = {"User-Agent": "a1-to-a2"}
WRITING_METHODS = ("PUT", "PATCH")
FORM = "application/x-www-form-urlencoded"
LONGEST_COOKIES = 8192
"""What all cookies together may take; servers refuse more in one request."""

_LOGIN_REFUSAL = r"(?i)credential|password|authenti|log-?in|logon|invalid[ _](?:user|grant|client)"
"""In the words of an error 500: some versions answer so to a wrong password."""
_COOKIE = re.compile(r"[!-:<>-~]+=[ -:<-~]*")

_REFUSED_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "ACCESS_DENIED",
    "HANDSHAKE_FAILURE",
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that was read to its end. said: the DAM's own words on a failure, our secrets taken out."""

    status: int
    headers: HTTPMessage
    body: bytes
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def is_html(self) -> bool:
        """Whether it is a page for people, whatever it is called: JSON never begins so."""
        return "html" in (self.headers.get("Content-Type") or "").lower() or self.body.lstrip()[:1] == b"<"

    @property
    def mapping(self) -> dict[str, Any] | None:
        """The JSON object that the answer is, or None."""
        return json_object(self.body)

    @property
    def is_failure_of_its_own(self) -> bool:
        """Whether it is an error that OTMM itself tells, under whatever status."""
        return isinstance((self.mapping or {}).get("exception_body"), dict)

    @property
    def said(self) -> str:
        body = (self.mapping or {}).get("exception_body")
        words = clean_text(body.get("message")) if isinstance(body, dict) else ""
        return redact(words, spellings(self.secrets))[:300]


@dataclass(slots=True)
class _Login:
    """What a login brought. number: how many there have been."""

    number: int = 0
    credentials: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class DamSession:
    """One session with the DAM, shared by all threads.

    Reads are retried a few times on dropped connections, 429 and 5xx; every call has a time-out; a session
    that ends is renewed once per call, and once for all threads that meet its end. wait: lets so many
    seconds pass before the next try, fewer when the run is to stop. `what` says, in errors, what was being
    done. Raises DamError for what the DAM does, ConfigError for credentials and certificates that it will
    never accept.
    """

    def __init__(
        self,
        settings: DamSettings,
        *,
        now: datetime,
        wait: Callable[[float], object],
    ) -> None:
        self._settings = settings
        self._ensure_held: Callable[[], None] = lambda: None
        self._wait = wait
        # Elsewhere than at the DAM itself the client certificate is not shown and no token is sent. A private
        # CA counts everywhere, beside the public ones: files may lie in a public cloud.
        bundle = settings.ca_bundle
        self._elsewhere = Wire(
            dam_context(bundle) if bundle else None, settings.timeout_seconds, trusts_system=True
        )
        self._wire = self._elsewhere
        if settings.auth == "pfx-v2":
            context = client_context(settings, now)
            self._wire = Wire(context, settings.timeout_seconds, trusts_system=bundle is not None)
        self._origin = origin_of(settings.base_url)
        self._calls = threading.Semaphore(MOST_CALLS_AT_ONCE)
        self._login = _Login()

    def guarded(self, ensure_held: Callable[[], None]) -> DamSession:
        """The same session. ensure_held is called before each try of a write, which does not go out when it
        raises.
        """
        twin = copy(self)
        twin._ensure_held = ensure_held
        return twin

    def close(self) -> None:
        """Log out of a session login (the DAM would keep it open for long) and drop the connections."""
        if self._login.number and self._settings.auth == "password":
            try:
                self._wire.send("DELETE", self._url("/sessions"), self._headers()).read()
            except NoAnswerError as exc:
                logger.debug("could not log out of the DAM: %s", exc)
        self._wire.close()
        self._elsewhere.close()

    def log_in(self) -> None:
        """See to a session ahead of a call."""
        self._log_in_unless(0)

    def connect(self) -> None:
        """Open a connection ahead of a call."""
        try:
            self._wire.connect(self._settings.base_url)
        except NoAnswerError as exc:
            raise self._transport_error(exc, "connecting", None, self._settings.base_url) from exc

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
        url = self._url(path) + (f"?{urlencode(params)}" if params else "")
        body = urlencode(data).encode() if data is not None else b""
        kind = {"Content-Type": FORM} if data is not None else {}
        answer = self._ask(method, url, kind, body, what, item_id, is_repeatable=True)
        _raise_for_status(answer, what, item_id)
        found = answer.mapping
        if found is None:
            raise DamError(
                f"{what}: the DAM answered {answer.status} without usable JSON ({len(answer.body)} bytes)",
                kind="bad_answer",
                retryable=True,
                item_id=item_id,
                status_code=answer.status,
            )
        _raise_for_exception_body(answer, what, item_id)
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
        """A write; its answer as a mapping, {} when the DAM answered success without JSON."""
        body = urlencode(data).encode() if data is not None else json.dumps(json_body).encode()
        kind = {"Content-Type": FORM if data is not None else "application/json"}
        is_repeatable = method in REPEATABLE_METHODS
        answer = self._ask(method, self._url(path), kind, body, what, item_id, is_repeatable=is_repeatable)
        _raise_for_status(answer, what, item_id)
        found = answer.mapping
        if found is None:
            return {}
        _raise_for_exception_body(answer, what, item_id)
        return found

    @contextmanager
    def stream(
        self, asset_id: str, *, what: str, size_bytes: int | None, start: int = 0
    ) -> Iterator[AssetBody]:
        """An asset's bytes from `start` on. A connection that breaks while they arrive, or ends too soon,
        raises DamError (retryable). size_bytes: of the whole, as far as it is known.

        Whether the DAM answers Range requests is not documented, so a start is asked for and the answer
        tells: a 206 begins there; after a 200 the bytes before are read and dropped.
        """
        headers = {"Accept": "*/*"} | ({"Range": f"bytes={start}-"} if start else {})
        reply = self._open(asset_id, headers, what, size_bytes)
        with reply:
            if reply.status == 206 and start and _range_start(reply.headers) != start:
                raise DamError(
                    f"{what}: asked for the bytes from {start} on, the DAM sent others"
                    f" ({reply.headers.get('Content-Range')!r:.80})",
                    kind="bad_answer",
                    retryable=True,
                    item_id=asset_id,
                    status_code=206,
                )
            body = AssetBody(self, reply, what, asset_id)
            if reply.status != 206:
                body.skip(start)
            yield body

    # Calls

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        what: str,
        item_id: str | None,
        *,
        is_repeatable: bool,
    ) -> _Answer:
        """One call on a valid session; a session that ended is renewed once and the call repeated."""
        for is_last in (False, True):
            login = self._log_in_unless(0)
            with self._calls:
                answer = self._exchange(
                    method, url, headers, body, what, item_id, is_repeatable=is_repeatable
                )
            if not _is_session_over(answer):
                return answer
            if not is_last:
                self._log_in_unless(login)
        raise _not_logged_in(what, item_id, answer.status)

    def _open(self, asset_id: str, headers: Mapping[str, str], what: str, size_bytes: int | None) -> Reply:
        """The asset's answer, its body still to come, on a valid session. Raises DamError unless it succeeds.

        A page may be the asset, or the login page that a session's end brings, with status 200 or by a
        redirection, at whose end anything may be. So a page, an answer of another length than the asset, and
        a failure elsewhere are believed only when the session proves to be valid still.
        """
        url = self._url(f"/assets/{asset_id}/contents")
        status = 0
        for _ in range(2):
            login = self._log_in_unless(0)
            first = self._patiently("GET", url, headers, b"", what, asset_id, is_repeatable=True)
            try:
                reply = self._follow(first, url, headers, what, asset_id)
            except (ConfigError, DamError):
                if self._is_logged_in_still(login, asset_id, what):
                    raise
                continue
            status, is_elsewhere = reply.status, reply is not first
            is_success = 200 <= status < 300
            is_doubtful = _is_doubtful(reply, size_bytes, is_elsewhere) if is_success else is_elsewhere
            try:
                if not is_elsewhere and status in (401, *REDIRECTS):
                    self._log_in_unless(login)
                elif not is_doubtful or self._is_logged_in_still(login, asset_id, what):
                    if is_success:
                        return reply
                    _raise_for_status(self._read(reply, what, asset_id, url), what, asset_id)
            except BaseException:
                reply.close()
                raise
            reply.close()
        raise _not_logged_in(what, asset_id, status)

    def _is_logged_in_still(self, login: int, asset_id: str, what: str) -> bool:
        """Whether login number `login` is the valid one: asked by reading the asset's record, which renews a
        session that is over.
        """
        self.read_json("GET", f"/assets/{asset_id}", what=what, item_id=asset_id)
        return self._log_in_unless(0) == login

    def _follow(self, reply: Reply, url: str, headers: Mapping[str, str], what: str, item_id: str) -> Reply:
        """The reply at the end of the redirections (to an object store, say). Raises DamError, ConfigError.

        Who has been sent elsewhere shows no token any more, not even where elsewhere leads back to the DAM.
        """
        is_at_home = True
        for _ in range(LONGEST_REDIRECTION):
            location = reply.headers.get("Location")
            if reply.status not in REDIRECTS or not location:
                break
            reply.close()
            url = self._redirected(url, location, what, item_id)
            is_at_home = is_at_home and origin_of(url) == self._origin
            reply = self._patiently(
                "GET", url, headers, b"", what, item_id, is_repeatable=True, is_at_home=is_at_home
            )
        return reply

    def _redirected(self, url: str, location: str, what: str, item_id: str) -> str:
        """Where a redirection leads; never out of TLS, so that nobody in between chooses what is copied."""
        refusal = ""
        try:
            target = urljoin(url, location)
            scheme, host, _ = origin_of(target)
        except (ValueError, UnfitError):
            refusal = f"a redirection to {location!r:.200}"
        else:
            if scheme != "https" and origin_of(url)[0] == "https":
                refusal = f"a redirection out of https to {host}"
        if refusal:
            raise DamError(
                f"{what}: the DAM sent {refusal}", kind="bad_answer", retryable=True, item_id=item_id
            )
        return target

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        what: str,
        item_id: str | None,
        *,
        is_repeatable: bool,
    ) -> _Answer:
        """A call and its whole answer; an answer that breaks off is one that did not come."""
        tries = READ_TRIES if is_repeatable else 1
        while True:
            tries -= 1
            reply = self._patiently(method, url, headers, body, what, item_id, is_repeatable=is_repeatable)
            try:
                content = self._content(reply, what, item_id)
            except NoAnswerError as exc:
                if not tries:
                    raise self._transport_error(exc, what, item_id, url) from exc
                self._wait(backoff_seconds(READ_TRIES - 1 - tries))
                continue
            if origin_of(url) == self._origin:
                self._remember_cookies(reply.headers)
            return _Answer(reply.status, reply.headers, content, self._secrets())

    def _read(self, reply: Reply, what: str, item_id: str, url: str) -> _Answer:
        try:
            content = self._content(reply, what, item_id)
        except NoAnswerError as exc:
            raise self._transport_error(exc, what, item_id, url) from exc
        return _Answer(reply.status, reply.headers, content, self._secrets())

    def _content(self, reply: Reply, what: str, item_id: str | None) -> bytes:
        """The body of an answer; of a failure that says too much, nothing: its status tells enough."""
        try:
            return reply.read()
        except UnfitError as exc:
            if 200 <= reply.status < 300:
                raise self.unfit(exc, what, item_id) from exc
            return b""

    def _secrets(self) -> tuple[str, ...]:
        """What an answer must not bring into a message: it may quote the request."""
        settings = self._settings
        known = (settings.client_secret, settings.password, settings.pfx_password)
        live = (*self._login.credentials.values(), *self._login.cookies.values())
        return tuple(
            secret for secret in (*known, *(word for text in live for word in text.split())) if secret
        )

    def _patiently(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        what: str,
        item_id: str | None,
        *,
        is_repeatable: bool,
        is_at_home: bool = True,
    ) -> Reply:
        """The head of an answer; what may pass is tried again where that can do no harm.

        is_at_home: False once a redirection led away: nothing of ours is shown any more.
        """
        is_ours = is_at_home and origin_of(url) == self._origin
        wire = self._wire if is_ours else self._elsewhere
        for tries in range(1, READ_TRIES + 1):
            is_last = tries == READ_TRIES or not is_repeatable
            if method in WRITING_METHODS:
                self._ensure_held()
            try:
                reply = wire.send(method, url, {**(self._headers() if is_ours else AGENT), **headers}, body)
            except ProxyError as exc:
                raise ConfigError(str(exc)) from exc
            except UnfitError as exc:
                raise self.unfit(exc, what, item_id) from exc
            except NoAnswerError as exc:
                is_refusal = isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError)
                # A lock that got no answer in time may still be taken, after everything that we do next.
                may_come_late = method == "PUT" and isinstance(exc, TimeoutError)
                if is_last or is_refusal or may_come_late:  # what TLS refuses does not heal by repetition
                    raise self._transport_error(exc, what, item_id, url) from exc
                asked = None
            else:
                if is_last or reply.status not in RETRIED_STATUSES:
                    return reply
                asked = retry_after_seconds(reply.headers, datetime.now(UTC))
                reply.close()
            self._wait(backoff_seconds(tries - 1) if asked is None else min(asked, LONGEST_WAIT_SECONDS))
        raise AssertionError("unreachable: the last try returns or raises")

    def _headers(self) -> dict[str, str]:
        headers = {**AGENT, **self._login.credentials}
        cookies = self._login.cookies
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return headers

    def _remember_cookies(self, headers: HTTPMessage) -> None:
        """Cookies make a session login; with a token they may still tie us to one node of a cluster.

        What would not be one cookie in one line is dropped, and so is what would make requests too long.
        """
        for line in headers.get_all("Set-Cookie") or ():
            pair = str(line).partition(";")[0].strip()
            name, _, value = pair.partition("=")
            cookies = {**self._login.cookies, name: value}
            if _COOKIE.fullmatch(pair) and sum(map(len, (*cookies, *cookies.values()))) <= LONGEST_COOKIES:
                self._login.cookies = cookies

    # Logging in

    def _log_in_unless(self, seen: int) -> int:
        """Log in, unless somebody has done so since login number `seen`; returns the present number."""
        with self._login.lock:
            if self._login.number == seen:
                self._login.credentials, self._login.cookies = {}, {}
                if self._settings.auth == "password":
                    self._open_session()
                else:
                    self._login.credentials = {"Authorization": f"Bearer {self._fetch_token()}"}
                self._login.number += 1
            return self._login.number

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
        answer = self._login_answer(settings.token_url, form)
        token_info = answer.get("token_info")
        oauth_token = token_info.get("oauth_token") if isinstance(token_info, dict) else None
        found = (
            oauth_token.get("accessToken") if isinstance(oauth_token, dict) else answer.get("access_token")
        )
        if not isinstance(found, str) or not found:
            raise DamError(
                f"{_shown_url(settings.token_url)} answered without an access token",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
            )
        return found

    def _open_session(self) -> None:
        form = {"username": self._settings.username, "password": self._settings.password or ""}
        answer = self._login_answer(self._url("/sessions"), form)
        session = mapping(mapping(answer, "session_resource", "logging in"), "session", "logging in")
        self._login.credentials = {"X-Requested-By": str(session.get("id", ""))}

    def _login_answer(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        what = f"logging in at {_shown_url(url)}"
        body = urlencode(form).encode()
        response = self._exchange("POST", url, {"Content-Type": FORM}, body, what, None, is_repeatable=True)
        status, said = response.status, response.said
        # Some versions answer 500 to a wrong password, and gateways send their login page.
        is_refusal = status in (400, 401, 403) or _is_session_over(response)
        if is_refusal or (response.is_failure_of_its_own and re.search(_LOGIN_REFUSAL, said)):
            shown = "its login page" if response.is_html else f"HTTP {status}"
            where = f", and {self._address_variable}" if response.is_html else ""
            raise DamError(
                f"{what}: the DAM refused the credentials ({shown}{f', {said}' if said else ''})",
                kind="login_refused",
                hint=f"check {self._credential_variables(response)}{where}",
                status_code=status,
            )
        if status in (404, 405, 410):
            raise DamError(
                f"{what}: HTTP {status}, there is no DAM at this address",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
                status_code=status,
            )
        _raise_for_status(response, what, None)
        answer = response.mapping
        if answer is None or response.is_failure_of_its_own:
            raise DamError(
                f"{what}: HTTP {status}, {said or 'without JSON, as a proxy would answer'}",
                kind="bad_answer",
                hint=f"check {self._address_variable}",
                retryable=True,
            )
        return answer

    @property
    def _address_variable(self) -> str:
        """What says where to log in."""
        settings = self._settings
        is_default = settings.token_url.startswith(f"{settings.base_url}/") or settings.auth == "password"
        return "DAM_BASE_URL" if is_default else "DAM_TOKEN_URL"

    def _credential_variables(self, refusal: _Answer) -> str:
        """What may be wrong: OAuth tells the client from the user."""
        user, client = "DAM_USERNAME and DAM_PASSWORD", "DAM_CLIENT_ID and DAM_CLIENT_SECRET"
        if self._settings.auth == "password":
            return user
        if not self._settings.username or b"invalid_client" in refusal.body:
            return client
        return user if b"invalid_grant" in refusal.body else f"{user}, {client}"

    def own_login(self) -> str:
        """Our login name: what the DAM writes into a lock of ours."""
        if self._settings.username:
            return self._settings.username
        try:
            answer = self.read_json("GET", "/sessions", what="reading our session")
            session = mapping(mapping(answer, "session_resource", ""), "session", "")
        except DamError:
            return ""
        return str(session.get("login_name", ""))

    def _url(self, path: str) -> str:
        return f"{self._settings.base_url}{API}{path}"

    def unfit(self, why: object, what: str, item_id: str | None) -> DamError:
        """An answer or address that is not dealt with, and would be no better the next time."""
        return DamError(
            f"{what}: the DAM sent {why}",
            kind="bad_answer",
            hint="if it is a listing that is too large, lower DAM_PAGE_SIZE",
            retryable=True,
            item_id=item_id,
        )

    def _transport_error(
        self, exc: Exception, what: str, item_id: str | None, url: str
    ) -> DamError | ConfigError:
        """Tell the ways apart in which a call gets no answer; only some of them heal by waiting."""
        if isinstance(exc, ProxyError):
            return ConfigError(str(exc))
        fault = self._tls_fault(exc, url) if isinstance(exc, ssl.SSLError) else None
        if fault is not None:
            return ConfigError(fault)
        if isinstance(exc, ssl.SSLCertVerificationError):
            detail = f"{exc.verify_message}{self._elsewhere.validity(url)}"
        elif isinstance(exc, ProxyTroubleError):
            detail = str(exc)
        elif isinstance(exc, TimeoutError):
            detail = f"no answer within {self._settings.timeout_seconds:g} s"
        else:
            detail = type(exc).__name__
        host = urlsplit(url).netloc
        return DamError(
            f"{what}: {host} is out of reach ({detail})", kind="out_of_reach", retryable=True, item_id=item_id
        )

    def _tls_fault(self, cause: ssl.SSLError, url: str) -> str | None:
        """What somebody must change before TLS is spoken with a host; None for what heals by waiting."""
        settings, host = self._settings, urlsplit(url).netloc
        is_dam = origin_of(url) == self._origin
        is_token = origin_of(url) == origin_of(settings.token_url)
        named = "DAM_BASE_URL" if is_dam else "DAM_TOKEN_URL" if is_token else "a download of the DAM's"
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = certificate_fault(cause)
            if why == "dates":
                return None
            if why == "name":
                return f"{named}: {host} shows a certificate made for another name"
            known, cure = "known CA", "name the file with your CA's certificate"
            if settings.ca_bundle:
                known = f"CA in DAM_CA_BUNDLE ({settings.ca_bundle}) or of the system"
                cure = "add your CA's certificate to it"
            said = cause.verify_message
            return f"DAM_CA_BUNDLE: the certificate of {host} is signed by no {known} ({said}); {cure}"
        if not any(alert in str(cause) for alert in _REFUSED_CERTIFICATE_ALERTS):
            return None
        reason = cause.reason or cause
        if is_dam and settings.auth == "pfx-v2":
            return f"DAM_PFX_PATH: {host} refused the client certificate {settings.pfx_path} ({reason})"
        cure = "set DAM_AUTH=pfx-v2" if is_dam else "ours is shown to the host of DAM_BASE_URL alone"
        return f"{named}: {host} asks for a client certificate, it seems ({reason}); {cure}"


class AssetBody:
    """An asset's bytes, or the rest of them, as they arrive.

    size: of the whole, as the answer declares it; None when it does not.
    """

    def __init__(self, session: DamSession, reply: Reply, what: str, asset_id: str) -> None:
        self._session = session
        self._reply = reply
        self._what = what
        self._asset_id = asset_id

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as the bytes go; 0 at their end. Raises DamError for what breaks meanwhile."""
        try:
            return self._reply.readinto(view)
        except UnfitError as exc:
            raise self._session.unfit(exc, self._what, self._asset_id) from exc
        except NoAnswerError as exc:
            raise DamError(
                f"{self._what}: the connection broke before the end ({type(exc).__name__})",
                kind="broken_download",
                retryable=True,
                item_id=self._asset_id,
            ) from exc

    @property
    def size(self) -> int | None:
        return _whole_size(self._reply)

    def skip(self, count: int) -> None:
        """Read so many bytes and drop them."""
        scratch = memoryview(bytearray(min(SKIP_BLOCK, count)))
        while count:
            got = self.readinto(scratch[:count])
            if not got:
                return
            count -= got


def _range_start(headers: HTTPMessage) -> int | None:
    """Where the bytes of a 206 begin."""
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return int(found[1]) if found else None


def _not_logged_in(what: str, item_id: str | None, status: int) -> DamError:
    return DamError(
        f"{what}: the DAM asks for a login again right after one (HTTP {status})",
        kind="not_logged_in",
        retryable=True,
        item_id=item_id,
        status_code=status,
    )


def _shown_url(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _is_session_over(answer: _Answer) -> bool:
    """401, or a login page in one of its disguises: a redirect, or HTML where JSON was due."""
    is_page = 200 <= answer.status < 300 and answer.is_html
    return answer.status == 401 or answer.status in REDIRECTS or is_page


def _is_doubtful(reply: Reply, size_bytes: int | None, is_elsewhere: bool) -> bool:
    """Whether an answer may be something else than the asset of this size. The DAM itself may not tell how
    long it is.
    """
    is_page = "html" in (reply.headers.get("Content-Type") or "").lower()
    expected = (size_bytes,) if is_elsewhere else (None, size_bytes)
    return is_page or (size_bytes is not None and _whole_size(reply) not in expected)


def _whole_size(reply: Reply) -> int | None:
    """The size of the whole that an answer brings, or a part of; None when it does not tell."""
    if "Content-Encoding" in reply.headers:
        return None
    declared = (
        (reply.headers.get("Content-Range") or "").rpartition("/")[2]
        if reply.status == 206
        else reply.headers.get("Content-Length") or ""
    )
    return int(declared) if re.fullmatch("[0-9]{1,18}", declared) else None


def _raise_for_status(answer: _Answer, what: str, item_id: str | None) -> None:
    status = answer.status
    if 200 <= status < 300:
        return
    said = "an HTML page in place of JSON, as a proxy sends it" if answer.is_html else answer.said
    if status in OUT_OF_REACH_STATUSES:
        kind = "out_of_reach"
    else:
        kind = {403: "forbidden", 404: "not_found"}.get(status, "refused" if status < 500 else "dam_error")
    hints = {
        403: "the DAM user needs permission to see and edit it",
        404: "it does not exist, or the DAM user may not see it",
    }
    raise DamError(
        f"{what}: HTTP {status}{f', {said}' if said else ''}",
        kind=kind,
        hint=hints.get(status, ""),
        retryable=status >= 500 or status == 429,
        item_id=item_id,
        status_code=status,
    )


def _raise_for_exception_body(answer: _Answer, what: str, item_id: str | None) -> None:
    body = (answer.mapping or {}).get("exception_body")
    if isinstance(body, dict):
        raise DamError(
            f"{what}: HTTP {answer.status} carrying an error: {answer.said}",
            kind="dam_error",
            retryable=True,
            item_id=item_id,
            status_code=answer.status,
        )

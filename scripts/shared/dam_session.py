"""The DAM's wire: logging in, keeping the session, and telling apart the ways in which a call fails."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as HttpTimeoutError
from urllib3.util.retry import Retry

from shared.client_certificate import client_context
from shared.dam_answers import clean_text, mapping
from shared.errors import ConfigError, DamError
from shared.models import DamSettings

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)

API = "/otmmapi/v6"
CONNECT_TIMEOUT_SECONDS = 10
READ_TRIES = 3
OUT_OF_REACH_STATUSES = (429, 502, 503, 504)
RETRIED_STATUSES = (500, *OUT_OF_REACH_STATUSES)

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
_SERVER_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NAME_MISMATCHES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class Readable(Protocol):
    """A stream of bytes: at most `size` of them, b"" at the end."""

    def read(self, size: int) -> bytes: ...


class DamSession:
    """One session with the DAM.

    Reads are retried a few times on dropped connections, 429 and 5xx; every call has a time-out; a session
    that ends is renewed once per call. Raises DamError for what the DAM does, ConfigError for credentials
    and certificates it will never accept. `what` says, in errors, what was being done.
    """

    def __init__(self, settings: DamSettings, *, now: datetime) -> None:
        self._settings = settings
        self._timeout = (CONNECT_TIMEOUT_SECONDS, settings.timeout_seconds)
        self._is_logged_in = False
        self._http = requests.Session()
        self._http.headers["User-Agent"] = "a1-to-a2"
        self._http.verify = settings.ca_bundle or True
        context = client_context(settings, now) if settings.auth == "pfx-v2" else None
        origin = _origin(settings.base_url)
        self._http.mount("https://", _Adapter(None))
        self._http.mount("http://", _Adapter(None))
        self._http.mount(f"{origin}/", _Adapter(context))
        # A search and a login change nothing, so their POST may be repeated like a read.
        self._http.mount(f"{origin}{API}/search/", _Adapter(context, retry_posts=True))
        token_context = context if _origin(settings.token_url) == origin else None
        self._http.mount(settings.token_url, _Adapter(token_context, retry_posts=True))
        self._http.mount(f"{origin}{API}/sessions", _Adapter(context, retry_posts=True))

    def close(self) -> None:
        """Log out of a session login (the DAM would keep it open for long) and drop the connections."""
        if self._is_logged_in and self._settings.auth == "password":
            try:
                self._http.delete(self._url("/sessions"), timeout=self._timeout)
            except requests.RequestException as exc:
                logger.debug("could not log out of the DAM: %s", exc)
        self._http.close()

    def read_json(self, method: str, path: str, *, what: str, **call: Any) -> dict[str, Any]:
        item_id = call.get("item_id")
        response = self._send(method, path, what=what, expects_json=True, **call)
        _raise_for_status(response, what, item_id)
        answer = _parsed(response)
        if answer is None:
            raise DamError(
                f"{what}: the DAM answered {response.status_code} without usable JSON",
                kind="bad_answer",
                retryable=True,
                item_id=item_id,
                status_code=response.status_code,
            )
        _raise_for_exception_body(answer, what, item_id, response.status_code)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        item_id: str | None = None,
        expects_json: bool = False,
        stream: bool = False,
        **call: Any,
    ) -> requests.Response:
        """One call on a valid session; a session that ended is renewed once and the call repeated."""
        if not self._is_logged_in:
            self._log_in()
        response = self._call(method, self._url(path), what, item_id, stream=stream, **call)
        if not _is_session_over(response, expects_json=expects_json):
            return response
        response.close()
        self._log_in()
        response = self._call(method, self._url(path), what, item_id, stream=stream, **call)
        if not _is_session_over(response, expects_json=expects_json):
            return response
        response.close()
        raise DamError(
            f"{what}: the DAM asks for a login again right after one (HTTP {response.status_code})",
            kind="not_logged_in",
            retryable=True,
            item_id=item_id,
            status_code=response.status_code,
        )

    def _call(
        self, method: str, url: str, what: str, item_id: str | None, *, stream: bool = False, **call: Any
    ) -> requests.Response:
        try:
            return self._http.request(
                method, url, timeout=self._timeout, allow_redirects=stream, stream=stream, **call
            )
        except requests.RequestException as exc:
            raise self._transport_error(exc, what, item_id) from exc

    def _log_in(self) -> None:
        self._is_logged_in = False
        self._http.auth = _NoAuth()
        self._http.cookies.clear()
        if self._settings.auth == "password":
            self._open_session()
        else:
            self._http.auth = _BearerAuth(self._fetch_token())
        self._is_logged_in = True

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
        answer = self._login_answer(
            settings.token_url, form, "DAM_CLIENT_ID, DAM_CLIENT_SECRET, DAM_USERNAME"
        )
        token_info = answer.get("token_info")
        oauth_token = token_info.get("oauth_token") if isinstance(token_info, dict) else None
        found = (
            oauth_token.get("accessToken") if isinstance(oauth_token, dict) else answer.get("access_token")
        )
        if not isinstance(found, str) or not found:
            raise DamError(
                f"{_shown_url(settings.token_url)} answered without an access token",
                kind="bad_answer",
                hint="check DAM_TOKEN_URL",
            )
        return found

    def _open_session(self) -> None:
        form = {"username": self._settings.username, "password": self._settings.password or ""}
        answer = self._login_answer(self._url("/sessions"), form, "DAM_USERNAME and DAM_PASSWORD")
        session = mapping(mapping(answer, "session_resource", "logging in"), "session", "logging in")
        self._http.headers["X-Requested-By"] = str(session.get("id", ""))

    def _login_answer(self, url: str, form: Mapping[str, str], variables: str) -> dict[str, Any]:
        what = f"logging in at {_shown_url(url)}"
        response = self._call("POST", url, what, None, data=form)
        if response.status_code in (400, 401, 403):
            raise DamError(
                f"{what}: the DAM refused the credentials (HTTP {response.status_code})",
                kind="login_refused",
                hint=f"check {variables}",
                status_code=response.status_code,
            )
        _raise_for_status(response, what, None)
        answer = _parsed(response)
        if answer is None:
            raise DamError(
                f"{what}: answered without JSON, as a login page or a proxy would",
                kind="bad_answer",
                hint="check DAM_BASE_URL and DAM_TOKEN_URL",
                retryable=True,
            )
        return answer

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

    def _transport_error(
        self, exc: requests.RequestException, what: str, item_id: str | None
    ) -> DamError | ConfigError:
        """Tell the ways apart in which a call gets no answer; only some of them heal by waiting."""
        host = urlsplit(self._settings.base_url).netloc
        cause = _cause(exc, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _NAME_MISMATCHES:
                return ConfigError(f"DAM_BASE_URL: {host} shows a certificate made for another name")
            if cause.verify_code != _SERVER_CERTIFICATE_EXPIRED:
                return ConfigError(
                    f"DAM_CA_BUNDLE: the certificate of {host} is signed by no known CA"
                    f" ({cause.verify_message}); name the file with your CA's certificate"
                )
            detail = "its server certificate has expired"
        elif cause is not None and any(alert in str(cause) for alert in _REFUSED_CERTIFICATE_ALERTS):
            return ConfigError(
                f"DAM_PFX_PATH: {host} refused the client certificate {self._settings.pfx_path}"
                f" ({cause.reason or cause})"
            )
        elif _cause(exc, TimeoutError) or _cause(exc, HttpTimeoutError):
            detail = f"no answer within {self._settings.timeout_seconds:g} s"
        else:
            detail = type(exc).__name__
        return DamError(
            f"{what}: {host} is out of reach ({detail})", kind="out_of_reach", retryable=True, item_id=item_id
        )

    def write(self, method: str, path: str, *, what: str, item_id: str, **body: Any) -> dict[str, Any]:
        """A write; its answer as a mapping, {} when the DAM answered success without JSON."""
        response = self._send(method, path, what=what, item_id=item_id, **body)
        _raise_for_status(response, what, item_id)
        answer = _parsed(response)
        if answer is None:
            return {}
        _raise_for_exception_body(answer, what, item_id, response.status_code)
        return answer

    @contextmanager
    def stream(self, path: str, *, what: str, item_id: str) -> Iterator[Readable]:
        """The bytes of a GET. A connection that breaks while they arrive raises DamError (retryable)."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        response = self._send("GET", path, what=what, item_id=item_id, stream=True, headers=headers)
        with response:
            _raise_for_status(response, what, item_id)
            yield _Body(response, what, item_id)


class _Body:
    """A response's bytes; what breaks while they arrive becomes a DamError."""

    def __init__(self, response: requests.Response, what: str, asset_id: str) -> None:
        self._raw = response.raw
        self._what = what
        self._asset_id = asset_id

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._raw.read(size))
        except (HTTPError, OSError) as exc:
            raise DamError(
                f"{self._what}: the connection broke before the end ({type(exc).__name__})",
                kind="broken_download",
                retryable=True,
                item_id=self._asset_id,
            ) from exc


class _BearerAuth(requests.auth.AuthBase):
    """An OAuth token. As an auth object it also keeps requests from putting a ~/.netrc entry in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoAuth(requests.auth.AuthBase):
    """Nothing but cookies; keeps ~/.netrc out as well."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Adapter(HTTPAdapter):
    """HTTP with bounded retries of reads, and the client certificate where a context brings one."""

    def __init__(self, context: ssl.SSLContext | None, *, retry_posts: bool = False) -> None:
        self._context = context
        methods = {"GET", "HEAD", "PUT", "DELETE"} | ({"POST"} if retry_posts else set())
        super().__init__(
            max_retries=Retry(
                total=READ_TRIES - 1,
                other=0,  # TLS faults do not heal by repetition
                status_forcelist=RETRIED_STATUSES,
                allowed_methods=methods,
                backoff_factor=0.5,
                backoff_jitter=0.2,
                raise_on_status=False,
                retry_after_max=60,
            )
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        return super().proxy_manager_for(proxy, **kwargs)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _shown_url(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _parsed(response: requests.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except (ValueError, RecursionError, requests.RequestException):
        return None
    return answer if isinstance(answer, dict) else None


def _is_html(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _is_session_over(response: requests.Response, *, expects_json: bool) -> bool:
    """401, or a login page in one of its disguises: a redirect, or HTML where JSON or a file was due."""
    if response.status_code == 401:
        return True
    if expects_json:
        return response.is_redirect or (response.ok and _is_html(response))
    return bool(response.history) and response.ok and _is_html(response)


def _raise_for_status(response: requests.Response, what: str, item_id: str | None) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    said = _said(response)
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


def _said(response: requests.Response) -> str:
    """The DAM's own words on a failure, or what stands in their place."""
    if _is_html(response):
        return "an HTML page in place of JSON, as a proxy sends it"
    body = (_parsed(response) or {}).get("exception_body")
    return clean_text(body.get("message"))[:300] if isinstance(body, dict) else ""


def _raise_for_exception_body(answer: Mapping[str, Any], what: str, item_id: str | None, status: int) -> None:
    body = answer.get("exception_body")
    if isinstance(body, dict):
        raise DamError(
            f"{what}: HTTP {status} carrying an error: {clean_text(body.get('message'))[:300]}",
            kind="dam_error",
            retryable=True,
            item_id=item_id,
            status_code=status,
        )


def _cause(exc: BaseException, wanted: type[E]) -> E | None:
    """The first error of a type below an exception of requests, which wraps what it got many times over."""
    waiting: list[object] = [exc]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, wanted):
            return current
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            waiting += [
                *current.args,
                current.__cause__,
                current.__context__,
                getattr(current, "reason", None),
            ]
    return None

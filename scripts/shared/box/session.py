"""Box's wire: the token, the limits, repetition, and telling apart the ways in which a call fails.

Our own calls and not Box's SDK: its import alone costs more than an idle run, it re-sends a JWT assertion
after a 429, knows `Retry-After` in seconds only, and spends several times the processor time on each call
(MARKDOWN_DOCS/TRANSFER.md).
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPMessage
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from shared.base.errors import BoxError, ConfigError
from shared.base.redaction import redact, spellings
from shared.base.values import BoxSettings
from shared.http.wire import (
    ANSWER_LIMIT,
    LONGEST_WAIT_SECONDS,
    Body,
    NoAnswerError,
    ProxyError,
    ProxyTroubleError,
    Reply,
    UnfitError,
    Wire,
    backoff_seconds,
    certificate_fault,
    date_in,
    default_context,
    json_object,
    origin_of,
    retry_after_seconds,
)

logger = logging.getLogger(__name__)

MAX_TRIES = 4
OUT_OF_REACH_STATUSES = (429, 502, 503, 504)
PASSING_STATUSES = (408, 425, 429)
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_AUDIENCE = "https://api.box.com/oauth2/token"
JWT_LIFETIME_SECONDS = 45
JWT_CLOCK_TOLERANCE_SECONDS = 10
"""Box takes assertions that end within 60 seconds by its own clock."""
BOX_DOMAIN = ".box.com"
LONGEST_TEXT = 2000

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class Gate(Protocol):
    """What keeps our calls within Box's limits, for all threads and runs together."""

    def wait(self, *, is_upload: bool) -> None:
        """Return when one call may go out."""

    def pause(self, seconds: float) -> None:
        """Box asked for silence."""


class NameTakenError(BoxError):
    """The name is in use in that folder. existing_id and item_type tell by what, as far as Box said."""

    def __init__(self, message: str, *, existing_id: str | None, item_type: str) -> None:
        super().__init__(message, kind="name_taken", retryable=True, status_code=409)
        self.existing_id = existing_id
        self.is_folder = item_type == "folder"
        self.is_file = item_type == "file"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def mapping(self) -> dict[str, Any]:
        """The JSON object that came, {} when none did."""
        return json_object(self.content) or {}


@dataclass(slots=True)
class _Login:
    """What a login brought. clock_ahead: seconds by which Box's clock is ahead of ours, where it matters."""

    token: str = ""  # nosec B105 - none yet
    clock_ahead: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class BoxSession:
    """One session with Box as its service account, shared by all threads. Raises BoxError for what Box does.

    Calls are repeated a few times on 429, 5xx and dropped connections, so a write whose answer was lost may
    be sent twice; a token that ended is renewed once for everybody; a `Retry-After` that comes with a 429
    holds up everybody.
    """

    def __init__(
        self, settings: BoxSettings, gate: Gate, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """sleep: pauses; may raise StoppedError."""
        self._settings = settings
        self._gate = gate
        self.sleep = sleep
        try:
            context = default_context(settings.ca_bundle) if settings.ca_bundle else None
        except ValueError as exc:
            raise ConfigError(f"BOX_CA_BUNDLE: {exc}") from exc
        self._wire = Wire(context, settings.timeout_seconds)
        self._jwt = None if settings.jwt_config is None else _read_jwt_config(settings)
        self._login = _Login()
        self._ensure_held: Callable[[], None] = lambda: None

    def guarded(self, ensure_held: Callable[[], None]) -> BoxSession:
        """The same session. ensure_held is called before each call, which does not go out when it raises."""
        twin = copy(self)
        twin._ensure_held = ensure_held
        return twin

    def close(self) -> None:
        """Drop the connections."""
        self._wire.close()

    def log_in(self) -> None:
        """See to a token ahead of the first call. Raises BoxError at the first failure: calls are patient."""
        self._log_in("", first_try=MAX_TRIES)

    def connect(self, url: str) -> None:
        """Open a connection ahead of a call. Raises BoxError, ConfigError."""
        try:
            self._wire.connect(url)
        except NoAnswerError as exc:
            _raise_for_settings(exc, url)
            raise self._out_of_reach(f"connecting to {_host(url)}", exc, url) from exc

    def trusts(self, url: str) -> bool:
        """Whether an address may be shown our token: it is where the settings point, or Box as they do."""
        settings = self._settings
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
        headers: dict[str, str] | None = None,
        json_body: object = None,
        body: Body = b"",
        is_upload: bool = False,
        limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """One call, repeated with patience; success and a redirection are answers. Raises BoxError, among
        them NameTakenError. limit: the longest answer that is read.
        """
        sent = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent["Content-Type"] = "application/json"
        if not self.trusts(url):
            raise BoxError(f"{what}: no token is sent to {url!r:.200}", kind="foreign_address")
        is_renewed = False
        tries = 0
        while True:
            token = self._login.token or self._log_in("")
            self._gate.wait(is_upload=is_upload)
            self._ensure_held()
            tries += 1
            sent["Authorization"] = f"Bearer {token}"
            answer = self._exchange(method, url, sent, body, what, tries, limit)
            if answer is not None and answer.status == 401 and not is_renewed:
                is_renewed = True
                self._log_in(token)
                continue
            if answer is not None and (tries >= MAX_TRIES or not _may_pass(answer)):
                break
            self._wait(answer, tries, what)
        if 200 <= answer.status < 300 or answer.status == 302:
            return answer
        raise self._api_error(what, answer)

    def fetch(self, url: str, *, what: str, limit: int) -> bytes:
        """What lies at an address that Box pointed to; it is not shown our token, and TLS is not left."""
        if self._settings.api_url.startswith("https:") and not url.startswith("https://"):
            raise BoxError(f"{what}: Box points out of https, to {url!r:.200}", kind="foreign_address")
        for tries in range(1, MAX_TRIES + 1):
            answer = self._exchange("GET", url, {}, b"", what, tries, limit)
            if answer is not None and answer.status == 200:
                return answer.content
            if answer is not None and (tries == MAX_TRIES or not _may_pass(answer)):
                raise self._api_error(what, answer)
            self._wait(answer, tries, what)
        raise AssertionError("unreachable: the last try returns or raises")

    def _exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        what: str,
        tries: int,
        limit: int = ANSWER_LIMIT,
    ) -> Answer | None:
        """Whatever answer came; None when there was none and it may be tried again."""
        try:
            with self._wire.send(method, url, {"User-Agent": "a1-to-a2", **headers}, body) as reply:
                return Answer(reply.status, reply.headers, _content(reply, limit))
        except NoAnswerError as exc:
            _raise_for_settings(exc, url)
            if isinstance(exc, UnfitError):
                raise BoxError(f"{what}: Box sent {exc}", kind="bad_answer", retryable=True) from exc
            if tries >= MAX_TRIES:
                raise self._out_of_reach(what, exc, url) from exc
            logger.debug("%s: no answer, try %d: %r", what, tries, exc)
            return None

    def _out_of_reach(self, what: str, exc: Exception, url: str) -> BoxError:
        detail = type(exc).__name__
        if isinstance(exc, ProxyTroubleError):
            detail = str(exc)
        elif isinstance(exc, ssl.SSLCertVerificationError):
            detail = f"{exc.verify_message}{self._wire.validity(url)}"
        return BoxError(
            f"{what}: {_host(url)} is out of reach ({detail})", kind="out_of_reach", retryable=True
        )

    def _wait(self, answer: Answer | None, tries: int, what: str) -> None:
        """Pause before the next try: as long as Box asks for, else doubling. After a 429 for everybody."""
        asked = retry_after_seconds(answer.headers, datetime.now(UTC)) if answer else None
        wait = backoff_seconds(tries) if asked is None else min(asked, LONGEST_WAIT_SECONDS)
        status = answer.status if answer else 0
        logger.debug("%s: HTTP %d, try %d; waiting %.1f s", what, status, tries, wait)
        if status == 429:
            self._gate.pause(wait)
        self.sleep(wait)

    # Logging in

    def _log_in(self, stale: str, *, first_try: int = 1) -> str:
        """A token other than the stale one; fetched once, whoever needs it first."""
        with self._login.lock:
            if self._login.token == stale:
                self._login.token = self._fetch_token(first_try)
            return self._login.token

    def _fetch_token(self, first_try: int) -> str:
        what = "logging in to Box"
        url = f"{self._settings.api_url}/oauth2/token"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        for tries in range(first_try, MAX_TRIES + 1):
            # A fresh form for each try, because a JWT assertion must not be used twice.
            form = urlencode(self._grant()).encode()
            answer = self._exchange("POST", url, kind, form, what, tries)
            if answer is not None and answer.status == 200:
                token = answer.mapping.get("access_token")
                if isinstance(token, str) and token:
                    return token
                raise BoxError(f"{what}: Box sent no token", kind="bad_answer", retryable=True)
            if answer is not None:
                refusal = self._api_error(what, answer)
                is_other_time = refusal.kind == "login_refused" and self._takes_time_from(answer)
                if tries == MAX_TRIES or not (refusal.retryable or is_other_time):
                    raise refusal
            self._wait(answer, tries, what)
        raise AssertionError("unreachable: the last try returns or raises")

    def _takes_time_from(self, answer: Answer) -> bool:
        """Whether the answer's Date shows that our clock is off by more than an assertion can bear; the next
        assertion follows Box's clock.
        """
        date = date_in(answer.headers.get("Date"))
        if self._jwt is None or date is None:
            return False
        ahead = date.timestamp() - time.time()
        is_news = abs(ahead - self._login.clock_ahead) > JWT_CLOCK_TOLERANCE_SECONDS
        if is_news:
            logger.warning("our clock is %.0f s off Box's; logging in by Box's", -ahead)
            self._login.clock_ahead = ahead
        return is_news

    def _grant(self) -> dict[str, str]:
        settings = self._settings
        if self._jwt is None:
            return {
                "grant_type": "client_credentials",
                "client_id": settings.client_id,
                "client_secret": settings.client_secret or "",
                "box_subject_type": "enterprise",
                "box_subject_id": settings.enterprise_id,
            }
        return self._jwt.grant(time.time() + self._login.clock_ahead)

    def _api_error(self, what: str, answer: Answer) -> BoxError:
        """An error answer as BoxError, with Box's own code as its kind: error notices are bounded by kind, so
        what has not the form of a code is none.
        """
        status, body = answer.status, answer.mapping
        code = _code_of(body)
        if "temporar" not in code:
            code = CODES.get(status, code)
        request_id = _slug(body.get("request_id"))
        refusal = _refusal(status, code)
        said = f"HTTP {status} {code}".rstrip() + (f", request {request_id}" if request_id else "")
        said = f"{what}: {refusal.words} ({said})" if refusal else f"{what}: {said}"
        if code in ("invalid_client", "invalid_grant", "unauthorized_client"):
            described = storable(body.get("error_description", ""))
            ours = (
                self._login.token,
                self._settings.client_secret or "",
                self._jwt.client_secret if self._jwt else "",
            )
            shown = redact(described, spellings(ours))[:200]
            return BoxError(
                f"{what}: Box refused the credentials ({code}: {shown})",
                kind="login_refused",
                hint="check BOX_CLIENT_ID, BOX_CLIENT_SECRET and BOX_ENTERPRISE_ID or BOX_JWT_CONFIG,"
                " and that the app is authorised in Box's admin console",
                retryable="jti" in described,
                status_code=status,
            )
        if status == 409 and code == "item_name_in_use":
            context = body.get("context_info")
            conflicts = context.get("conflicts") if isinstance(context, dict) else None
            conflict = conflicts[0] if isinstance(conflicts, list) and conflicts else conflicts
            found = conflict if isinstance(conflict, dict) else {}
            kind = found.get("type")
            return NameTakenError(
                said,
                existing_id=safe_id(found.get("id")),
                item_type=kind if isinstance(kind, str) else "file",
            )
        if status in OUT_OF_REACH_STATUSES:
            kind = "out_of_reach"
        elif status == 401:
            kind = "not_logged_in"
        else:
            kind = code or ("forbidden" if status == 403 else "not_found" if status == 404 else "box_error")
        return BoxError(
            said,
            kind=kind,
            hint=refusal.cure if refusal else "",
            retryable=status >= 500
            or status in (401, 409, 412, *PASSING_STATUSES)
            or code in ("bad_digest", "digest_mismatch"),
            status_code=status,
        )


@dataclass(frozen=True, slots=True)
class _JwtConfig:
    """What Box's developer console hands out for JWT, the key unlocked."""

    client_id: str
    client_secret: str
    enterprise_id: str
    key_id: str
    key: Any

    def grant(self, now: float) -> dict[str, str]:
        """The form of a token request; its assertion is good for one use."""
        import jwt

        claims = {
            "iss": self.client_id,
            "sub": self.enterprise_id,
            "box_sub_type": "enterprise",
            "aud": JWT_AUDIENCE,
            "jti": secrets.token_hex(32),
            "exp": int(now) + JWT_LIFETIME_SECONDS,
        }
        return {
            "grant_type": JWT_GRANT,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "assertion": jwt.encode(claims, self.key, algorithm="RS512", headers={"kid": self.key_id}),
        }


def _read_jwt_config(settings: BoxSettings) -> _JwtConfig:
    """Raises ConfigError when the file is not what Box hands out."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = settings.jwt_config
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        app = document["boxAppSettings"]
        keys = app["appAuth"]
        key = load_pem_private_key(keys["privateKey"].encode(), keys["passphrase"].encode())
        return _JwtConfig(
            client_id=str(app["clientID"]),
            client_secret=str(app["clientSecret"]),
            enterprise_id=str(document["enterpriseID"]),
            key_id=str(keys["publicKeyID"]),
            key=key,
        )
    except OSError as exc:
        raise ConfigError(f"BOX_JWT_CONFIG: cannot read {path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(f"BOX_JWT_CONFIG: {path} is not the JSON file that Box hands out for JWT") from exc


def _content(reply: Reply, limit: int) -> bytes:
    """The body of an answer; of a failure that says too much, nothing: its status tells enough."""
    try:
        return reply.read(limit)
    except UnfitError:
        if 200 <= reply.status < 300:
            raise
        return b""


def _raise_for_settings(exc: Exception, url: str) -> None:
    """Raises ConfigError for what keeps us from a host until somebody changes a setting."""
    if isinstance(exc, ProxyError):
        raise ConfigError(str(exc)) from exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = certificate_fault(exc)
        if why == "name":
            raise ConfigError(
                f"BOX_API_URL, BOX_UPLOAD_URL: {_host(url)} shows a certificate made for another name"
            ) from exc
        if why == "authority":
            raise ConfigError(
                f"BOX_CA_BUNDLE: the certificate of {_host(url)} is signed by no known CA"
                f" ({exc.verify_message}); name the file with your CA's certificate"
            ) from exc


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _may_pass(answer: Answer) -> bool:
    """Whether the same call may do better a little later, without anybody's help."""
    is_passing = answer.status in PASSING_STATUSES or answer.status >= 500
    return is_passing or (answer.status in (403, 409, 423) and "temporar" in _code_of(answer.mapping))


def _code_of(body: Mapping[str, Any]) -> str:
    """Box's own code for a failure: a short word, "" for anything else."""
    return _slug(body.get("code") or body.get("error"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusal of Box means in plain words, and who can do what about it.

    mark: what Box's code for it contains. Not all of its codes are documented.
    """

    mark: str
    words: str
    cure: str


REFUSALS = (
    Refusal(
        "temporar",
        "Box is busy with another operation on that folder",
        "nobody needs to do anything: the next run tries again",
    ),
    Refusal(
        "locked", "the file is locked in Box", "unlock it there, or delete it; the next run then uploads it"
    ),
    Refusal(
        "retention",
        "a retention policy in Box forbids to change it",
        "the Box administrator can end the policy, or move the file away; the next run then uploads it",
    ),
    Refusal(
        "legal_hold",
        "a legal hold in Box forbids to change it",
        "the Box administrator can end the hold, or move the file away; the next run then uploads it",
    ),
    Refusal(
        "policy",
        "a security policy in Box (Shield, for example) forbids it",
        "the Box administrator can allow it to our service account",
    ),
    Refusal(
        "storage_limit_exceeded",
        "the Box account is full",
        "the Box administrator can free or buy space; the next run then goes on",
    ),
    Refusal(
        "file_size_limit_exceeded",
        "the file is larger than the Box account takes",
        "the Box administrator can raise the limit; or put a smaller file into the DAM",
    ),
    Refusal(
        "item_name_in_use",
        "something else has that name there",
        "rename, move or delete that in Box; the next run then uploads it",
    ),
)
FORBIDDEN = Refusal(
    "",
    "our service account may not do that",
    "the owner of the folder in Box can make it an editor there; or a setting of the Box account forbids it,"
    " which the Box administrator can tell",
)
GONE = Refusal(
    "",
    "it is not there any more, or our service account may not see it",
    "restore it in Box, or make our service account an editor of the folder",
)


CODES = {413: "file_size_limit_exceeded", 423: "item_locked"}
"""What a status means whatever its code, from a gateway, say."""


def _refusal(status: int, code: str) -> Refusal | None:
    if 400 <= status < 500:
        for refusal in REFUSALS:
            if refusal.mark in code:
                return refusal
    return FORBIDDEN if status == 403 else GONE if status in (404, 410) else None


def safe_id(value: object) -> str | None:
    """An id of Box that is safe in an address; None for anything else."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if _ID.fullmatch(text) else None


def storable(value: object) -> str:
    """Text of Box's as it can be stored anywhere: no NUL, no half characters."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)[:LONGEST_TEXT])


def _slug(value: object) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""

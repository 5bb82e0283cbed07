"""What stands before the Box simulator's API: tokens, rate limits and the faults a test asks for.

Facts: "Box OpenAPI" (POST /oauth2/token), "Box guide authentication/jwt" (also as-user), "Box guide
rate-limits".
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal
from urllib.parse import parse_qsl

from simulators.box_store import Options, RefusedError, denied
from simulators.box_wire import Answer, Call

TOKEN_PATH = "/oauth2/token"  # noqa: S105  # nosec B105 - a path
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_AUDIENCE = "https://api.box.com/oauth2/token"
JWT_LONGEST_SECONDS = 60
UPLOAD_PATH = re.compile(r"/files(/\d+)?/(content|upload_sessions)/?$")
JTI_LENGTHS = range(16, 129)

Drop = Literal["before", "after"]
Access = Literal["editor", "viewer", "none"]

DEFAULT_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "access_denied_insufficient_permissions",
    404: "not_found",
    409: "conflict",
    410: "session_expired",
    411: "length_required",
    412: "precondition_failed",
    413: "request_entity_too_large",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    502: "bad_gateway",
    503: "unavailable",
}


@dataclass
class Fault:
    """Something that goes wrong on purpose; `hits` counts the requests it met. See BoxSimulator.fail."""

    match: re.Pattern[str]
    status: int | None = None
    code: str | None = None
    times: int | None = None
    skip: int = 0
    retry_after: int | float | str | None = None
    drop: Drop | None = None
    delay: float | None = None
    body: bytes | None = None
    body_type: str = "application/json"
    effect: bool = False
    truncate: int | None = None
    hits: int = 0

    @property
    def answers(self) -> bool:
        """Whether the fault puts an answer of its own in the place of the API's."""
        return self.status is not None or self.body is not None


class Faults:
    """The faults asked for; a request meets the first that fits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """From now on."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._faults.clear()

    def take(self, target: str) -> Fault | None:
        """The fault this request meets."""
        with self._lock:
            for fault in self._faults:
                if (fault.times is not None and fault.hits >= fault.times) or not fault.match.search(target):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                return fault
        return None


def oauth_error(error: str, description: str, status: int = 400) -> Answer:
    """An error of the token endpoint, which has a shape of its own."""
    return Answer.of_json(status, {"error": error, "error_description": description})


class GrantError(Exception):
    """A token is not granted: OAuth's `error` and `error_description`."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


@dataclass
class Accounts:
    """The one application, its enterprise, its service account, and the users that it may act for with the
    header `As-User`; `token_lifetime` in seconds.
    """

    client_id: str
    client_secret: str
    enterprise_id: str
    user_id: str = "27000000001"
    token_lifetime: float = 3600
    key_id: str = "a1b2c3d4"
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tokens: dict[str, float] = field(default_factory=dict)
    _used_jtis: set[str] = field(default_factory=set)
    _users: dict[str, Access] = field(default_factory=dict)
    _jwt_config: dict[str, Any] | None = None
    _public_key: Any = None

    # --- tokens

    def grant(self, form: Mapping[str, str]) -> Answer:
        """Answer POST /oauth2/token: a token by client credentials or by a JWT assertion."""
        try:
            if form.get("grant_type") == JWT_GRANT:
                self._check_client(form)
                self._check_assertion(form.get("assertion", ""))
            elif form.get("grant_type") == "client_credentials":
                self._check_client(form)
                self._check_subject(
                    form.get("box_subject_type"), form.get("box_subject_id"), "Grant credentials are invalid"
                )
            else:
                raise GrantError("invalid_request", "Invalid grant_type parameter or parameter missing")
        except GrantError as exc:
            return oauth_error(exc.error, exc.description)
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = time.monotonic() + self.token_lifetime
        answer = {
            "access_token": token,
            "expires_in": max(0, math.floor(self.token_lifetime)),
            "restricted_to": [],
            "token_type": "bearer",  # nosec B105 - a word of the protocol
        }
        return Answer.of_json(200, answer, {"Cache-Control": "no-store"})

    def check_bearer(self, call: Call) -> None:
        """Refuse with 401 a request without a live token."""
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        with self._lock:
            is_live = scheme.lower() == "bearer" and self._tokens.get(token.strip(), 0) > time.monotonic()
        if not is_live:
            challenge = (
                'Bearer realm="Service", error="invalid_token", '
                'error_description="The access token provided is invalid."'
            )
            raise RefusedError(401, "unauthorized", "Unauthorized", headers={"WWW-Authenticate": challenge})

    # --- users

    def add_user(self, access: Access) -> str:
        """A user that the application may act for; its id."""
        with self._lock:
            user_id = str(int(self.user_id) + 1 + len(self._users))
            self._users[user_id] = access
        return user_id

    def set_access(self, user_id: str, access: Access) -> None:
        """Change what a user may do."""
        with self._lock:
            self._users[user_id] = access

    def user_of(self, call: Call, *, may_act: bool) -> str:
        """Who makes a call that has a live token: the service account, or the user of the header `As-User`.

        Refused with 403: an application that is not set up to act for users (as people report it), the id of
        the service account itself (the guide), and a user that the application may not act for, which is what
        an unknown id gets as well (the code is inferred).
        """
        user_id = call.headers.get("as-user", "").strip()
        if not user_id:
            return self.user_id
        if not may_act:
            challenge = (
                'Bearer realm="Service", error="insufficient_scope", error_description="The request requires '
                'higher privileges than provided by the access token."'
            )
            raise RefusedError(403, "insufficient_scope", "", headers={"WWW-Authenticate": challenge})
        with self._lock:
            if user_id not in self._users:
                raise denied()
        return user_id

    def check_access(self, call: Call) -> None:
        """Refuse what the user may not do with folders and files, here the same for all of them: without
        access everything is 404, and a viewer changes nothing.
        """
        with self._lock:
            access = self._users.get(call.user_id, "editor")
        if call.path.rstrip("/").endswith("/users/me"):
            return
        if access == "none":
            raise RefusedError(404, "not_found", "Not Found")
        if access == "viewer" and call.method != "GET":
            raise denied()

    def may_upload(self, user_id: str) -> bool:
        """Whether a user may write."""
        with self._lock:
            return self._users.get(user_id, "editor") == "editor"

    def expire_tokens(self) -> None:
        """Every token granted so far is worthless from now on."""
        with self._lock:
            self._tokens.clear()

    def burn(self, form: Mapping[str, str]) -> None:
        """Count a JWT assertion as used although nothing was granted for it, as after a 429."""
        try:
            payload = form.get("assertion", "").split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            jti = str(claims["jti"])
        except (IndexError, KeyError, TypeError, ValueError):
            return
        with self._lock:
            self._used_jtis.add(jti)

    # --- JWT

    def jwt_config(self) -> dict[str, Any]:
        """The settings as Box's developer console hands them out; the key pair is made when first asked."""
        with self._lock:
            if self._jwt_config is None:
                passphrase = secrets.token_hex(16)
                private_key, self._public_key = _new_key_pair(passphrase)
                self._jwt_config = {
                    "boxAppSettings": {
                        "clientID": self.client_id,
                        "clientSecret": self.client_secret,
                        "appAuth": {
                            "publicKeyID": self.key_id,
                            "privateKey": private_key,
                            "passphrase": passphrase,
                        },
                    },
                    "enterpriseID": self.enterprise_id,
                }
            copied: dict[str, Any] = json.loads(json.dumps(self._jwt_config))
            return copied

    def _check_client(self, form: Mapping[str, str]) -> None:
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            raise GrantError("invalid_client", "The client credentials are invalid")

    def _check_subject(self, kind: object, subject: object, description: str) -> None:
        if (kind, subject) not in {("enterprise", self.enterprise_id), ("user", self.user_id)}:
            raise GrantError("invalid_grant", description)

    def _check_assertion(self, assertion: str) -> None:
        """Signature, kid, iss, aud, exp, jti and sub, each refused in Box's words."""
        import jwt

        try:
            if jwt.get_unverified_header(assertion).get("kid") != self.key_id or self._public_key is None:
                raise GrantError("invalid_grant", "kid invalid, unable to lookup correct key")
            claims = jwt.decode(
                assertion,
                self._public_key,
                algorithms=["RS256", "RS384", "RS512"],
                audience=JWT_AUDIENCE,
                issuer=self.client_id,
                options={"require": ["aud", "exp", "iss", "jti", "sub"], "strict_aud": True},
            )
        except jwt.PyJWTError as exc:
            raise GrantError("invalid_grant", _in_box_words(type(exc).__name__, str(exc))) from exc
        if claims["exp"] > time.time() + JWT_LONGEST_SECONDS:
            raise GrantError("invalid_grant", "Please check the 'exp' claim: over 60 seconds ahead")
        jti = str(claims["jti"])
        with self._lock:
            is_fresh = len(jti) in JTI_LENGTHS and jti not in self._used_jtis
            self._used_jtis.add(jti)
        if not is_fresh:
            raise GrantError(
                "invalid_grant", "Please check the 'jti' claim. A unique 'jti' value is required."
            )
        self._check_subject(claims.get("box_sub_type"), claims["sub"], "Please check the 'sub' claim.")


def _in_box_words(error_type: str, detail: str) -> str:
    """What Box says where PyJWT raises this."""
    told = {
        "ExpiredSignatureError": "Current date time must be before the expiration date time "
        "listed in the 'exp' claim.",
        "InvalidAudienceError": "Please check the 'aud' claim.",
        "InvalidIssuerError": "Please check the 'iss' claim.",
        "InvalidSignatureError": "Signature verification error. The public key identified by 'kid' must "
        "correspond to the private key used for signing.",
    }
    return told.get(error_type, f"Please check the assertion: {detail}")


def _new_key_pair(passphrase: str) -> tuple[str, Any]:
    """An RSA key pair: the private half as encrypted PEM, the public half as an object."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )
    return pem.decode(), key.public_key()


def read_form(call: Call) -> dict[str, str]:
    """The body of a token request."""
    return dict(parse_qsl(call.body.read_all().decode("utf-8", "replace"), keep_blank_values=True))


class RateLimits:
    """Each user's calls and uploads in the last 60 seconds, against the options' limits."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._calls: dict[str, deque[float]] = defaultdict(deque)
        self._uploads: dict[str, deque[float]] = defaultdict(deque)

    def check(self, call: Call) -> None:
        """Count the call; 429 with Retry-After when it is one too many."""
        is_upload = call.method == "POST" and UPLOAD_PATH.search(call.path)
        with self._lock:
            self._count(self._calls[call.user_id], self._options.calls_per_minute)
            if is_upload:
                self._count(self._uploads[call.user_id], self._options.uploads_per_minute)

    def _count(self, recent: deque[float], limit: int | None) -> None:
        if limit is None:
            return
        now = time.monotonic()
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= limit:
            wait_seconds = max(1, math.ceil(recent[0] + 60 - now)) if recent else 60
            later = datetime.now(UTC) + timedelta(seconds=wait_seconds)
            as_date = self._options.retry_after_as_date
            retry_after = format_datetime(later, usegmt=True) if as_date else str(wait_seconds)
            raise RefusedError(
                429,
                "rate_limit_exceeded",
                "Request rate limit exceeded, try again later.",
                headers={"Retry-After": retry_after},
            )
        recent.append(now)

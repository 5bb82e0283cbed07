"""Logs in to Box by client credentials or a JWT assertion; all threads share one token."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from shared.base.errors import BoxError, ConfigError
from shared.box.calls import MOST_TRIES, Answer, BoxCalls, Request
from shared.box.refusals import error_of
from shared.http.patience import date_in

logger = logging.getLogger(__name__)

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_AUDIENCE = "https://api.box.com/oauth2/token"
JWT_LIFETIME_SECONDS = 45
JWT_CLOCK_TOLERANCE_SECONDS = 10
"""Box accepts assertions that expire within 60 seconds by its own clock."""
LOGGING_IN = "logging in to Box"


class BoxLogin:
    """Our token, fetched when it is first needed and only once. Raises BoxError, ConfigError."""

    def __init__(self, calls: BoxCalls) -> None:
        self._settings = calls.settings
        self._calls = calls
        self._jwt = _read_jwt_config(self._settings.jwt_config) if self._settings.jwt_config else None
        self._lock = threading.Lock()
        self._token = ""  # nosec B105 - none yet
        self._clock_ahead = 0.0
        """How many seconds Box's clock is ahead of ours, once that has mattered."""

    def token(self, *, most_tries: int = MOST_TRIES) -> str:
        """The valid token."""
        with self._lock:
            if not self._token:
                self._token = self._fetch(most_tries)
            return self._token

    def forget(self, token: str) -> None:
        """Note that this token has expired; does nothing when there is a newer one."""
        with self._lock:
            if self._token == token:
                self._token = ""  # nosec B105 - none any more

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in a message."""
        jwt_secret = self._jwt.client_secret if self._jwt else ""
        return (self._token, self._settings.client_secret or "", jwt_secret)

    def _fetch(self, most_tries: int) -> str:
        answer = self._calls.ask(LOGGING_IN, self._request, may_pass=self._may_pass, most_tries=most_tries)
        if answer.status != 200:
            raise self._refusal(answer)
        token = answer.mapping.get("access_token")
        if not isinstance(token, str) or not token:
            raise BoxError(f"{LOGGING_IN}: Box sent no token", kind="bad_answer", retryable=True)
        return token

    def _request(self) -> Request:
        """A new form for each try, because a JWT assertion must not be used twice."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request(
            "POST", f"{self._settings.api_url}/oauth2/token", kind, urlencode(self._grant()).encode()
        )

    def _may_pass(self, answer: Answer) -> bool:
        if answer.status == 200:
            return False
        refusal = self._refusal(answer)
        return (refusal.kind == "login_refused" and self._takes_time_from(answer)) or refusal.retryable

    def _refusal(self, answer: Answer) -> BoxError:
        return error_of(answer, LOGGING_IN, self.secrets)

    def _takes_time_from(self, answer: Answer) -> bool:
        """Whether the answer's Date shows that our clock is too far off for an assertion; the next assertion
        then uses Box's clock.
        """
        date = date_in(answer.headers.get("Date"))
        if self._jwt is None or date is None:
            return False
        ahead = date.timestamp() - time.time()
        is_news = abs(ahead - self._clock_ahead) > JWT_CLOCK_TOLERANCE_SECONDS
        if is_news:
            logger.warning("our clock differs from Box's by %.0f s; logging in with Box's time", -ahead)
            self._clock_ahead = ahead
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
        return self._jwt.grant(time.time() + self._clock_ahead)


@dataclass(frozen=True, slots=True)
class _JwtConfig:
    """The content of the JSON file from Box's developer console for JWT, with the key decrypted."""

    client_id: str
    client_secret: str
    enterprise_id: str
    key_id: str
    key: Any

    def grant(self, now: float) -> dict[str, str]:
        """The form of a token request; its assertion can be used once."""
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


def _read_jwt_config(path: Path) -> _JwtConfig:
    """Read the file. Raises ConfigError when it is not the file from Box."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
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
        raise ConfigError(
            f"BOX_JWT_CONFIG: {path} is not the JSON file for JWT from Box's developer console"
        ) from exc

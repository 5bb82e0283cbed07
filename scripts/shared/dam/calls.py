"""Makes a call to the DAM, in a few tries, with a limit for every wait."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPMessage
from typing import Any, TypeVar

from shared.base.errors import DamError
from shared.base.redaction import redact, spellings
from shared.base.values import DamSettings
from shared.dam.answers import clean_text
from shared.dam.certificate import client_context, dam_context
from shared.dam.faults import no_answer, refused
from shared.http.client import Http
from shared.http.guards import NoAnswerError, Reply, UnfitError, json_object, origin_of, within
from shared.http.patience import wait_seconds

T = TypeVar("T")

API = "/otmmapi/v6"
MOST_TRIES = 3
RETRIED_STATUSES = (429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request. what: what we are doing, for errors; item_id: the item concerned.

    is_at_home: whether our credentials may be sent; False after a redirection to another host. before_try:
    called before each try; if it raises, the try is not made.
    """

    method: str
    url: str
    what: str
    item_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_repeatable: bool = True
    is_at_home: bool = True
    before_try: Callable[[], None] = lambda: None

    def may_heal(self, reason: BaseException) -> bool:
        """Whether repeating a call that got no answer may help."""
        if isinstance(reason, ssl.SSLError):  # a TLS refusal is permanent
            return isinstance(reason, ssl.SSLEOFError)
        # A lock request without an answer may still take effect, after everything that we do next.
        return not (self.method == "PUT" and isinstance(reason, TimeoutError))


@dataclass(frozen=True, slots=True)
class Credentials:
    """headers: our credentials. secrets: texts that must not appear in a message."""

    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call, read to its end. secrets: texts that must not appear in a message."""

    call: Call
    status: int
    headers: HTTPMessage
    body: bytes
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_html(self) -> bool:
        """Whether it is a page for people, whatever its type: JSON never begins like this."""
        return "html" in (self.headers.get("Content-Type") or "").lower() or self.body.lstrip()[:1] == b"<"

    @property
    def is_session_over(self) -> bool:
        """401, or a login page in another form: a redirect, or HTML instead of JSON."""
        return self.status in (401, *REDIRECTS) or (self.is_success and self.is_html)

    @property
    def mapping(self) -> dict[str, Any] | None:
        """The JSON object that the answer is, or None."""
        return json_object(self.body)

    @property
    def exception_body(self) -> dict[str, Any] | None:
        """An error that OTMM itself reports, with any status."""
        body = within(self.mapping, "exception_body")
        return body if isinstance(body, dict) else None

    @property
    def said(self) -> str:
        """The DAM's own words about a failure, without our secrets."""
        words = clean_text((self.exception_body or {}).get("message"))
        return redact(words, spellings(self.secrets))[:300]

    def raise_for_status(self) -> None:
        """Raises DamError for a status that is not a success."""
        if not self.is_success:
            page = "an HTML page instead of JSON, as a proxy would send"
            raise refused(self.call, self.status, page if self.is_html else self.said)

    def raise_for_failure(self) -> None:
        """Raises DamError for that, and for an error with the status of a success."""
        self.raise_for_status()
        if self.exception_body is not None:
            raise DamError(
                f"{self.call.what}: HTTP {self.status} with an error: {self.said}",
                kind="dam_error",
                retryable=True,
                item_id=self.call.item_id,
                status_code=self.status,
            )


class Calls:
    """Calls to the DAM, and to the hosts it redirects to. Every method may be called by any thread.

    now: for the validity of the client certificate. wait: waits that many seconds before the next try, or
    fewer when the run must stop. Raises DamError for failures of the DAM, ConfigError for wrong settings.
    """

    def __init__(
        self,
        settings: DamSettings,
        now: datetime,
        wait: Callable[[float], object],
    ) -> None:
        self.settings = settings
        self._wait = wait
        # Only the DAM itself gets the client certificate and the token. A private CA is trusted everywhere,
        # in addition to the public ones: files may be in a public cloud.
        bundle = settings.ca_bundle
        self._elsewhere = Http(
            dam_context(bundle) if bundle else None, settings.timeout_seconds, trusts_system=True
        )
        self._home = self._elsewhere
        if settings.auth == "pfx-v2":
            context = client_context(settings, now)
            self._home = Http(context, settings.timeout_seconds, trusts_system=bundle is not None)
        self._origin = origin_of(settings.base_url)

    def is_dam(self, url: str) -> bool:
        """Whether an address belongs to the DAM itself."""
        return origin_of(url) == self._origin

    def connect(self) -> None:
        """Open a connection ahead of a call."""
        call = Call("CONNECT", self.settings.base_url, "connecting")
        try:
            self._home.connect(call.url)
        except NoAnswerError as exc:
            raise no_answer(self.settings, call, exc) from exc

    def ask(self, call: Call, credentials: Credentials) -> Answer:
        """The whole answer; an incomplete answer counts as no answer."""
        return self._send(call, credentials, lambda reply: _whole(call, reply, credentials), is_json=True)

    def open(self, call: Call, credentials: Credentials) -> Reply:
        """An answer whose body has not been read yet."""
        return self._send(call, credentials, lambda reply: reply, is_json=False)

    def read(self, call: Call, reply: Reply, credentials: Credentials) -> Answer:
        """Read the rest of an answer that was opened."""
        try:
            return _whole(call, reply, credentials)
        except NoAnswerError as exc:
            raise no_answer(self.settings, call, exc) from exc

    def _send(self, call: Call, credentials: Credentials, take: Callable[[Reply], T], *, is_json: bool) -> T:
        """Make the call, and return what `take` reads of the answer. This is the only place that repeats
        calls: after temporary failures, if repeating is safe.
        """
        for tries in range(1, MOST_TRIES + 1):
            is_last = tries == MOST_TRIES or not call.is_repeatable
            call.before_try()
            headers = None
            try:
                reply = self._exchange(call, credentials, is_json=is_json)
                if is_last or reply.status not in RETRIED_STATUSES:
                    return take(reply)
                headers = reply.headers
                reply.close()
            except NoAnswerError as exc:
                if is_last or isinstance(exc, UnfitError) or not call.may_heal(exc.reason):
                    raise no_answer(self.settings, call, exc) from exc
            self._wait(wait_seconds(headers, tries - 1))
        raise AssertionError("unreachable: the last try returns or raises")

    def _exchange(self, call: Call, credentials: Credentials, *, is_json: bool) -> Reply:
        """One try. Our credentials go only to the DAM."""
        is_ours = call.is_at_home and self.is_dam(call.url)
        http = self._home if is_ours else self._elsewhere
        headers = {**credentials.headers, **call.headers} if is_ours else call.headers
        if is_json:
            return http.call(call.method, call.url, headers, call.body)
        return http.transfer(call.method, call.url, headers)

    def close(self) -> None:
        """Drop the connections."""
        self._home.close()
        self._elsewhere.close()


def _whole(call: Call, reply: Reply, credentials: Credentials) -> Answer:
    return Answer(call, reply.status, reply.headers, reply.read(), credentials.secrets)

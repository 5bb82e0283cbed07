"""Makes a call to Box, in a few tries, with a limit for every wait."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from http.client import HTTPMessage
from typing import Any, Protocol
from urllib.parse import urlsplit

from shared.base.errors import BoxError, ConfigError
from shared.base.values import BoxSettings
from shared.http.client import Http, Pieces
from shared.http.guards import ANSWER_LIMIT, NoAnswerError, UnfitError, json_object
from shared.http.patience import wait_seconds
from shared.http.proxies import ProxyError
from shared.http.trust import certificate_fault, default_context, detail_of

logger = logging.getLogger(__name__)

MOST_TRIES = 4


class Gate(Protocol):
    """Keeps the calls of one user within Box's limits, for all threads and runs together."""

    def wait(self, *, is_upload: bool) -> None:
        """Return when one call may be made."""

    def pause(self, seconds: float) -> None:
        """Pause the user's calls, because Box asked for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. body: of a call; pieces: bytes of files, sent instead."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = b""
    pieces: Pieces = ()
    limit: int = ANSWER_LIMIT
    """The most bytes of an answer that are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def mapping(self) -> dict[str, Any]:
        """The JSON object in the answer, {} when there is none."""
        return json_object(self.content) or {}


class BoxCalls:
    """Calls to Box. Every method may be called by any thread. sleep: waits; may raise StoppedError.

    A 429 with `Retry-After` pauses all threads and runs, through the gate. Raises BoxError for failures of
    Box, ConfigError for wrong settings.
    """

    def __init__(self, settings: BoxSettings, gate: Gate, sleep: Callable[[float], None]) -> None:
        try:
            context = default_context(settings.ca_bundle) if settings.ca_bundle else None
        except ValueError as exc:
            raise ConfigError(f"BOX_CA_BUNDLE: {exc}") from exc
        self._http = Http(context, settings.timeout_seconds)
        self.settings = settings
        self.gate = gate
        self.sleep = sleep

    def within(self, gate: Gate) -> BoxCalls:
        """The same connections, for the calls of another user."""
        twin = copy(self)
        twin.gate = gate
        return twin

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def connect(self, url: str) -> None:
        """Open a connection ahead of a call."""
        try:
            self._http.connect(url)
        except NoAnswerError as exc:
            raise _no_answer(exc, f"connecting to {_host(url)}", url) from exc

    def ask(
        self,
        what: str,
        request: Callable[[], Request],
        *,
        may_pass: Callable[[Answer], bool],
        most_tries: int = MOST_TRIES,
    ) -> Answer:
        """The answer, with any status. This is the only place that repeats calls, with a new request for each
        try.
        """
        tries = 0
        while True:
            tries += 1
            made = request()
            answer = None
            try:
                answer = self._exchange(made)
                if tries >= most_tries or not may_pass(answer):
                    return answer
            except NoAnswerError as exc:
                error = _no_answer(exc, what, made.url)
                if tries >= most_tries or error.kind != "out_of_reach":
                    raise error from exc
                logger.debug("%s: no answer, try %d: %r", what, tries, exc.reason)
            self._wait(answer, tries, what)

    def _exchange(self, request: Request) -> Answer:
        method, url, headers = request.method, request.url, request.headers
        if request.pieces:
            reply = self._http.transfer(method, url, headers, request.pieces)
        else:
            reply = self._http.call(method, url, headers, request.body)
        return Answer(reply.status, reply.headers, reply.read(request.limit))

    def _wait(self, answer: Answer | None, tries: int, what: str) -> None:
        """Wait before the next try; after a 429 all runs wait, because Box counts all calls of a user."""
        wait = wait_seconds(answer.headers if answer else None, tries)
        status = answer.status if answer else 0
        logger.debug("%s: HTTP %d, try %d; waiting %.1f s", what, status, tries, wait)
        if status == 429:
            self.gate.pause(wait)
        self.sleep(wait)


def _no_answer(exc: NoAnswerError, what: str, url: str) -> BoxError | ConfigError:
    """The error for a call that got no answer; only when Box is out of reach does waiting help."""
    reason, host = exc.reason, _host(url)
    if isinstance(exc, ProxyError):
        return ConfigError(str(exc))
    if isinstance(exc, UnfitError):
        return BoxError(f"{what}: Box sent {exc}", kind="bad_answer", retryable=True)
    if isinstance(reason, ssl.SSLCertVerificationError):
        why = certificate_fault(reason)
        if why == "name":
            return ConfigError(f"BOX_API_URL, BOX_UPLOAD_URL: {host} presents a certificate for another name")
        if why == "authority":
            return ConfigError(
                f"BOX_CA_BUNDLE: the certificate of {host} is not signed by a known CA"
                f" ({reason.verify_message}); name the file with your CA's certificate"
            )
    said = f"{what}: {host} is out of reach ({detail_of(exc, url)})"
    return BoxError(said, kind="out_of_reach", retryable=True)


def _host(url: str) -> str:
    return urlsplit(url).netloc

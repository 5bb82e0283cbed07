"""A mail server that keeps what it is sent, for the demo and the tests.

It speaks real SMTP (plain, STARTTLS, TLS, AUTH) and refuses mails on demand. By hand:

    python scripts/simulators/mail.py --port 8025 --mailbox demo-output/mailbox
"""

import argparse
import asyncio
import contextlib
import email
import email.policy
import hmac
import logging
import signal
import ssl
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword, TLSSetupException

Security = Literal["none", "starttls", "tls"]
Stage = Literal["mail", "rcpt", "data"]

CLOSE_TIMEOUT_SECONDS = 2.0
CLOSE_POLL_SECONDS = 0.005

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Received:
    """One mail that was accepted: what the envelope said, what was in it, and how it came.

    `raw` is what was sent, byte for byte; `message` is the same with line ends as in Python.
    `authenticated_as` is the user name of the login, if there was one. `at` is in UTC.
    """

    envelope_from: str
    envelope_to: tuple[str, ...]
    message: EmailMessage
    raw: bytes
    authenticated_as: str | None
    tls: bool
    at: datetime


class MailSink:
    """An SMTP server in a thread of its own.

    `port=0` takes a free port. `security` is "none", "starttls" (nothing goes without it) or "tls" (from the
    first byte); the latter two need a server `ssl_context`. With `username` and `password`, nothing is
    accepted before a login; without them AUTH is not offered. With `mailbox`, each accepted mail is also
    written to `NNNN.eml` there, under headers that show its envelope.

    The switches may be changed at any time and take effect with the next command:

    - `refuse(recipient, code, text)`: this recipient only;
    - `refuse_all(code, text)`: every mail;
    - `refuse_login = True`: every login, with 535;
    - `delay_seconds = 4.0`: how long the answer to a mail's content takes;
    - `drop_after_data = True`: the mail is kept, then the connection breaks before the sender gets an answer;
    - `relent()`: undo all of these; `reset()`: forget the mails too.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        mailbox: Path | None = None,
        security: Security = "none",
        ssl_context: ssl.SSLContext | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        """Nothing listens yet. Raises ValueError for a combination that makes no sense."""
        if (security == "none") != (ssl_context is None):
            raise ValueError(f"security={security!r} and ssl_context do not fit together")
        if (username is None) != (password is None):
            raise ValueError("username and password go together")
        self.host = host
        self.mailbox = mailbox
        self.security: Security = security
        self.username = username
        self.messages: list[Received] = []
        self.connections = 0
        """How many were opened so far."""
        self.refuse_login = False
        self.delay_seconds = 0.0
        self.drop_after_data = False
        self._wanted_port = port
        self._port: int | None = None
        self._ssl_context = ssl_context
        self._password = password
        self._refused_recipients: dict[str, str] = {}
        self._refused_stages: dict[Stage, str] = {}
        self._sessions: weakref.WeakSet[Any] = weakref.WeakSet()
        self._last_number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port. Raises RuntimeError before the first start."""
        if self._port is None:
            raise RuntimeError("the mail sink has not been started")
        return self._port

    @property
    def settings(self) -> dict[str, str]:
        """The SMTP_* variables that make a program send its mail here."""
        settings = {"SMTP_HOST": self.host, "SMTP_PORT": str(self.port), "SMTP_SECURITY": self.security}
        if self.username is not None and self._password is not None:
            settings |= {"SMTP_USERNAME": self.username, "SMTP_PASSWORD": self._password}
        return settings

    def start(self) -> None:
        """Listen. A second start after `stop` takes the same port. Raises OSError when it is taken."""
        if self._thread is not None:
            raise RuntimeError("the mail sink runs already")
        # aiosmtpd warns of its own deprecated attribute at every login; its real errors still come through.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        if self.mailbox is not None:
            self.mailbox.mkdir(parents=True, exist_ok=True)
            numbers = (int(path.stem) for path in self.mailbox.glob("*.eml") if path.stem.isdigit())
            self._last_number = max(numbers, default=0)
        loop = asyncio.new_event_loop()
        try:
            server = loop.run_until_complete(self._listen(loop))
        except BaseException:
            loop.close()
            raise
        self._port = self._wanted_port = server.sockets[0].getsockname()[1]
        self._loop, self._server = loop, server
        self._thread = threading.Thread(
            target=self._serve, args=(loop, server), name="mail-sink", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break open connections; does nothing when it does not run."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = self._loop = self._server = None

    def refuse(self, recipient: str, code: int, text: str) -> None:
        """Answer `code text` to this recipient (upper or lower case alike), accept the others."""
        self._refused_recipients[recipient.casefold()] = f"{code} {text}"

    def refuse_all(self, code: int, text: str, *, stage: Stage = "rcpt") -> None:
        """Answer `code text` to every mail: to its sender, to each recipient, or after its content."""
        self._refused_stages[stage] = f"{code} {text}"

    def reset(self) -> None:
        """Forget what came and how to behave; files in the mailbox stay."""
        self.messages.clear()
        self.relent()

    def relent(self) -> None:
        """Take every mail again."""
        self._refused_recipients.clear()
        self._refused_stages.clear()
        self.refuse_login = False
        self.delay_seconds = 0.0
        self.drop_after_data = False

    # -- the server's thread ------------------------------------------------------------------------------

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        return await loop.create_server(
            self._make_session,
            host=self.host,
            port=self._wanted_port,
            ssl=self._ssl_context if self.security == "tls" else None,
        )

    def _make_session(self) -> Any:
        starttls = self.security == "starttls"
        session = SMTP(
            _Handler(self),
            loop=self._loop,
            hostname="localhost",
            enable_SMTPUTF8=True,
            tls_context=self._ssl_context if starttls else None,
            require_starttls=starttls,
            # Whether a login is needed is checked in the handler: aiosmtpd does not know that a connection
            # under implicit TLS is encrypted, and warns.
            auth_required=False,
            auth_require_tls=starttls,
            authenticator=self._authenticate,
        )
        self.connections += 1
        self._sessions.add(session)
        return session

    def _serve(self, loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self._close(server))
        finally:
            loop.close()
            asyncio.set_event_loop(None)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        for session in list(self._sessions):
            # Python 3.11.2 (Debian 12) cannot abort a TLS transport that is closing already.
            if session.transport is not None and not session.transport.is_closing():
                session.transport.abort()
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0)  # the sessions hear of it one after the other: TLS layer, then SMTP
            if all(session.transport is None for session in list(self._sessions)):
                break
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # a client that hangs within the TLS handshake
            await asyncio.wait_for(server.wait_closed(), CLOSE_TIMEOUT_SECONDS)

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        if self.refuse_login or self.username is None or self._password is None:
            return AuthResult(success=False, handled=False)
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        right = hmac.compare_digest(data.login, self.username.encode()) and hmac.compare_digest(
            data.password, self._password.encode()
        )
        return AuthResult(success=right, handled=False, auth_data=self.username if right else None)

    def _refusal_of(self, stage: Stage) -> str | None:
        return self._refused_stages.get(stage)

    def _refusal_of_recipient(self, recipient: str) -> str | None:
        return self._refused_recipients.get(recipient.casefold())

    def _keep(self, received: Received) -> None:
        if self.mailbox is not None:
            self._last_number += 1
            _write_mail(self.mailbox / f"{self._last_number:04d}.eml", received)
        self.messages.append(received)


class _Handler:
    """aiosmtpd's hooks; the upper-case parts of their names are the SMTP commands."""

    def __init__(self, sink: MailSink) -> None:
        self._sink = sink

    async def handle_EHLO(  # noqa: N802 - aiosmtpd looks hooks up by this name
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        if self._sink.security == "tls" and session.ssl is None:
            session.ssl = server.transport.get_extra_info("ssl_object")
        if self._sink.username is None:
            return [line for line in responses if not line.startswith("250-AUTH")]
        return responses

    async def handle_MAIL(  # noqa: N802 - aiosmtpd looks hooks up by this name
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self._sink.username is not None and not session.authenticated:
            return "530 5.7.0 Authentication required"
        refusal = self._sink._refusal_of("mail")
        if refusal is not None:
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd looks hooks up by this name
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        refusal = self._sink._refusal_of_recipient(address) or self._sink._refusal_of("rcpt")
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd looks hooks up by this name
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        refusal = self._sink._refusal_of("data")
        if refusal is not None:
            return refusal
        await asyncio.sleep(self._sink.delay_seconds)
        raw = bytes(envelope.original_content)
        self._sink._keep(
            Received(
                envelope_from=envelope.mail_from,
                envelope_to=tuple(envelope.rcpt_tos),
                message=_parse(raw),
                raw=raw,
                authenticated_as=session.auth_data if session.authenticated else None,
                tls=session.ssl is not None,
                at=datetime.now(UTC),
            )
        )
        if self._sink.drop_after_data:
            server.transport.abort()
            raise asyncio.CancelledError  # aiosmtpd's own way out for a connection that is gone
        return "250 OK"

    async def handle_exception(self, error: Exception) -> str:
        # A client that does not trust our certificate is what some tests are about, not our fault.
        if not isinstance(error, TLSSetupException):
            logger.error("the mail sink failed", exc_info=error)
        return "451 internal error"


def _parse(raw: bytes) -> EmailMessage:
    # Mail travels with CR LF; readers of a text part expect the line ends that its writer used.
    return email.message_from_bytes(raw.replace(b"\r\n", b"\n"), policy=email.policy.default)


def _write_mail(target: Path, received: Received) -> None:
    """Write the mail below headers that show its envelope; the file appears whole or not at all."""
    envelope = {
        "X-Envelope-From": received.envelope_from,
        "X-Envelope-To": ", ".join(received.envelope_to),
        "X-Authenticated-As": received.authenticated_as or "nobody",
        "X-Received-Over": "TLS" if received.tls else "plain text",
        "X-Received-At": received.at.isoformat(timespec="seconds"),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in envelope.items())
    partial = target.with_suffix(".part")
    partial.write_bytes(head.encode("utf-8", "surrogateescape") + received.raw)
    partial.replace(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run by hand until SIGINT or SIGTERM; returns the exit code, 2 when the port is taken."""
    parser = argparse.ArgumentParser(description="A mail server that only keeps what it is sent.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8025, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--mailbox", type=Path, required=True, metavar="DIR", help="folder for the .eml files"
    )
    arguments = parser.parse_args(argv)

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    sink = MailSink(arguments.port, arguments.host, mailbox=arguments.mailbox)
    try:
        sink.start()
    except OSError as error:
        parser.exit(2, f"cannot listen on {arguments.host}:{arguments.port}: {error}\n")
    try:
        sys.stdout.writelines(f"{name}={value}\n" for name, value in sink.settings.items())
        sys.stdout.flush()
        stopped.wait()
    finally:
        sink.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

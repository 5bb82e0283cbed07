"""Handing a notice to the mail server: one SMTP connection a run.

smtplib, ssl and email are imported where they are used, so that a run without news does not pay for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self

from shared.base.errors import NotifyError
from shared.base.redaction import redact, spellings
from shared.base.values import DeliveryResult, MailServer, Notice
from shared.notices.wording import one_line

if TYPE_CHECKING:
    import smtplib
    import socket
    import ssl
    from email.message import EmailMessage
    from email.policy import EmailPolicy
    from types import TracebackType

GOODBYE_SECONDS: Final = 5.0


def build_message(notice: Notice, sender: str) -> EmailMessage:
    """The notice as an e-mail.

    Message-ID and Date come from the notice, so that a repeated delivery is recognisably the same mail.
    """
    from email.header import Header
    from email.message import EmailMessage
    from email.utils import parseaddr

    message = EmailMessage(policy=_mail_policy())
    # Handed over encoded: the email package decodes encoded words in whatever it is given, so a campaign
    # named "=?utf-8?q?=0ABcc:…?=" would otherwise become a line end.
    message["Subject"] = Header(one_line(notice.subject, limit=1000), "utf-8").encode(linesep="")
    message["From"] = sender
    message["To"] = ", ".join(one_line(recipient) for recipient in notice.recipients)
    message["Date"] = notice.created_at
    message["Message-ID"] = f"<{notice.id}@{parseaddr(sender)[1].rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"  # Exchange's word for the line above
    if notice.campaign_id:
        message["X-Campaign-Id"] = Header(one_line(notice.campaign_id), "utf-8").encode(linesep="")
    # Quoted-printable keeps every line short, whatever the text.
    message.set_content(notice.text, charset="utf-8", cte="quoted-printable")
    message.add_alternative(notice.html, subtype="html", charset="utf-8", cte="quoted-printable")
    return message


@cache
def _mail_policy() -> EmailPolicy:
    from email.header import Header
    from email.policy import EmailPolicy

    class MailPolicy(EmailPolicy):
        """Folds headers that carry outside text itself.

        The email package writes ASCII words as they are, encoded-word look-alikes included, and its folding
        does not keep every space beside an encoded word.
        """

        def fold(self, name: str, value: str) -> str:
            text = str(value)
            is_plain = text.isascii() and "=?" not in text and len(text) <= 60 and "  " not in text
            if name.lower() not in {"subject", "x-campaign-id"} or is_plain:
                return str(super().fold(name, value))
            header = Header(text, "utf-8", maxlinelen=76, header_name=name)
            return f"{name}: {header.encode(linesep=self.linesep)}{self.linesep}"

        def fold_binary(self, name: str, value: str) -> bytes:
            return self.fold(name, value).encode("ascii", "surrogateescape")

    return MailPolicy(linesep="\r\n")


class Mailer:
    """One SMTP connection for all the notices of a run, opened at the first send.

    Raises NotifyError for trouble with the server itself, of kind `out_of_reach` (a later try may do),
    `login_refused`, `tls` or `rejected`. What the server says of this notice or its recipients is a result.
    """

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._smtp: smtplib.SMTP | None = None
        self._line: socket.socket | None = None
        self._is_late = False
        self._is_handed_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, if somebody is there, and hang up."""
        if self._smtp is None:
            return
        seconds = min(GOODBYE_SECONDS, self._server.timeout_seconds)
        try:
            with self._deadline(seconds):
                if self._smtp.sock is not None:
                    self._smtp.sock.settimeout(seconds)
                    self._smtp.quit()
        except OSError:  # smtplib's own errors are OSErrors; the mail is out already
            pass
        finally:
            self._hang_up()

    def connect(self) -> None:
        """Open the connection and log in, ahead of any notice. Raises NotifyError."""
        with self._deadline(self._server.deadline_seconds):
            self._connection()

    def send(self, notice: Notice, *, before_handover: Callable[[], None] = lambda: None) -> DeliveryResult:
        """Hand over one notice to all of its recipients in one transaction.

        before_handover: called when the server is ready for it, the last thing before; what it raises keeps
        the mail from going out.

        A refusal of the whole message (after DATA) is reported as a refusal of each recipient, so that one
        poisonous notice cannot stop the others. A connection lost after DATA raises and is never repeated
        here: the server may have taken the mail.
        """
        recipients = tuple(dict.fromkeys(notice.recipients))
        no_address = (553, "not an address a mail server can be given")
        refused = {one: no_address for one in recipients if not _is_sendable(one)}
        asked = [one for one in recipients if one not in refused]
        if asked:
            message = build_message(notice, self._server.sender).as_bytes()
            with self._deadline(self._server.deadline_seconds):
                refused |= self._transact(asked, message, before_handover)
        accepted = tuple(one for one in recipients if one not in refused)
        return DeliveryResult(accepted=accepted, refused=refused)

    def _transact(
        self, recipients: list[str], data: bytes, before_handover: Callable[[], None]
    ) -> dict[str, tuple[int, str]]:
        """Send to these; returns the refusals. Reconnects once, when a used connection takes no more mail."""
        import smtplib

        while True:
            smtp, is_reused = self._connection()
            before_handover()
            try:
                answers = smtp.sendmail(self._envelope_sender(), recipients, data)
            except smtplib.SMTPRecipientsRefused as exc:
                # After a 421 the rest was not asked, and those accepted before it got nothing either.
                unasked = (421, b"the server ended the connection")
                answers = {one: exc.recipients.get(one, unasked) for one in recipients}
            except smtplib.SMTPDataError as exc:
                answers = dict.fromkeys(recipients, (exc.smtp_code, _as_bytes(exc.smtp_error)))
            except smtplib.SMTPSenderRefused as exc:
                self._hang_up()
                if is_reused and exc.smtp_code == 421:  # a limit of mails per connection; nothing was sent
                    continue
                raise self._trouble(exc) from exc
            except (OSError, UnicodeError) as exc:
                self._hang_up()
                raise self._trouble(exc) from exc
            if answers and self._is_late:  # an answer that our own break cut short
                self._hang_up()
                raise self._trouble(OSError())
            return {one: (code, self._said(text)) for one, (code, text) in answers.items()}

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Break the connection when what happens inside has not come to its end by then: smtplib's time-out
        begins anew with each byte, so a server that sends one now and then would hold us for ever.
        """
        self._is_late = self._is_handed_over = False
        timer = threading.Timer(seconds, self._break)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _break(self) -> None:
        import socket

        self._is_late = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def _envelope_sender(self) -> str:
        from email.utils import parseaddr

        return parseaddr(self._server.sender)[1]

    def _connection(self) -> tuple[smtplib.SMTP, bool]:
        """A connection that answers, and whether it was used before.

        Servers drop idle clients: a used connection is asked first, while nothing can be sent twice.
        """
        if self._smtp is not None:
            try:
                if self._smtp.noop()[0] == 250:
                    return self._smtp, True
            except OSError:
                pass
            self._hang_up()
        try:
            self._connect()
        except (OSError, UnicodeError) as exc:
            self._hang_up()
            raise self._trouble(exc) from exc
        except NotifyError:
            self._hang_up()
            raise
        assert self._smtp is not None  # noqa: S101 - for the type checker: _connect sets it or raises
        return self._smtp, False

    def _connect(self) -> None:
        import smtplib

        watch, note_handover = self._watch, self._note_handover

        class Watched(smtplib.SMTP):
            """Shows its socket as soon as there is one: before the greeting, and before TLS."""

            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
                found: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
                watch(found)
                return found

            def send(self, s: Any) -> None:
                if isinstance(s, bytes):  # the mail; commands are text
                    note_handover()
                super().send(s)

        class WatchedTls(smtplib.SMTP_SSL, Watched):
            pass

        server = self._server
        where, name, seconds = (server.host, server.port), _own_name(), server.timeout_seconds
        if server.security == "tls":
            context = self._tls_context()
            self._smtp = WatchedTls(*where, local_hostname=name, timeout=seconds, context=context)
        else:
            self._smtp = Watched(*where, local_hostname=name, timeout=seconds)
            if server.security == "starttls":
                self._start_tls(self._smtp)
        self._smtp.ehlo_or_helo_if_needed()
        if server.username is not None:
            self._log_in(self._smtp, server.username, server.password or "")

    def _watch(self, found: socket.socket) -> None:
        """Keep a second handle of the connection: the first one goes over to TLS."""
        self._line = found.dup()
        if self._is_late:
            self._break()

    def _note_handover(self) -> None:
        self._is_handed_over = True

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        from smtplib import SMTPNotSupportedError, SMTPResponseException

        try:
            smtp.starttls(context=self._tls_context())
        except SMTPNotSupportedError as exc:
            raise self._error(
                "tls",
                "offers no STARTTLS",
                "set SMTP_SECURITY to tls (usually port 465), or to none on a network you trust",
            ) from exc
        except SMTPResponseException as exc:
            raise self._error(
                "tls",
                f"refused STARTTLS: {exc.smtp_code} {self._said(exc.smtp_error)}",
                "check SMTP_SECURITY and the server's TLS set-up",
                exc.smtp_code,
            ) from exc

    def _log_in(self, smtp: smtplib.SMTP, username: str, password: str) -> None:
        from smtplib import (
            SMTPAuthenticationError,
            SMTPException,
            SMTPNotSupportedError,
            SMTPServerDisconnected,
        )

        cure = "check SMTP_USERNAME and SMTP_PASSWORD"
        if not (username + password).isascii():
            # smtplib would raise a UnicodeEncodeError, which carries the password.
            raise self._error("login_refused", "cannot be logged in to: only ASCII is possible", cure)
        try:
            smtp.login(username, password)
        except SMTPServerDisconnected:
            raise
        except SMTPAuthenticationError as exc:
            said = f"{exc.smtp_code} {self._said(exc.smtp_error)}"
            if 400 <= exc.smtp_code < 500:
                raise self._error(
                    "out_of_reach", f"cannot log anybody in now: {said}", cure, exc.smtp_code
                ) from exc
            raise self._error(
                "login_refused", f"refused the login of {one_line(username)}: {said}", cure, exc.smtp_code
            ) from exc
        except SMTPNotSupportedError as exc:
            raise self._error(
                "login_refused",
                "offers no login on this connection",
                "set SMTP_SECURITY to starttls or tls, or leave SMTP_USERNAME empty",
            ) from exc
        except SMTPException as exc:  # smtplib knows none of the ways that it offers
            ways = one_line(smtp.esmtp_features.get("auth", "").strip())
            raise self._error(
                "login_refused",
                f"takes no login by user name and password (it offers: {ways})",
                "ask its administrator for a relay that does, or for one that needs no login",
            ) from exc

    def _tls_context(self) -> ssl.SSLContext:
        import ssl

        try:
            return ssl.create_default_context(cafile=self._server.ca_bundle)
        except (OSError, ValueError) as exc:
            raise self._error(
                "tls",
                f"cannot be verified: the CA file {self._server.ca_bundle} cannot be read:"
                f" {self._said(str(exc))}",
                "SMTP_CA_BUNDLE must name a readable PEM file",
            ) from exc

    def _hang_up(self) -> None:
        """Drop the connection without a word, so that the next send opens a new one."""
        smtp, self._smtp = self._smtp, None
        line, self._line = self._line, None
        if smtp is not None:
            smtp.close()
        if line is not None:
            line.close()

    def _trouble(self, exc: OSError | UnicodeError) -> NotifyError:
        """Translate what smtplib, ssl and the socket raise."""
        import smtplib
        import ssl

        cure = "check SMTP_HOST, SMTP_PORT and SMTP_SECURITY, and that this machine may reach the server"
        if self._is_late:
            seconds = self._server.deadline_seconds
            return self._error("out_of_reach", f"took longer than {seconds:g} s over one e-mail", cure)
        if isinstance(exc, smtplib.SMTPSenderRefused):
            said = f"refused the sender {exc.sender}: {exc.smtp_code} {self._said(exc.smtp_error)}"
            cure = "check MAIL_FROM" if exc.smtp_code >= 500 else "it is tried again"
            if exc.smtp_code == 530:
                cure = "the server wants a login or TLS first: check SMTP_USERNAME and SMTP_SECURITY"
            return self._error(_kind_of(exc.smtp_code), said, cure, exc.smtp_code)
        if isinstance(exc, smtplib.SMTPResponseException):
            said = f"turned us away: {exc.smtp_code} {self._said(exc.smtp_error)}"
            return self._error(_kind_of(exc.smtp_code), said, cure, exc.smtp_code)
        if isinstance(exc, ssl.SSLCertVerificationError):
            return self._error(
                "tls",
                f"shows a certificate that cannot be verified: {self._said(exc.verify_message)}",
                "check SMTP_HOST, the certificate's dates, and SMTP_CA_BUNDLE for a private CA",
            )
        if isinstance(exc, ssl.SSLError):
            return self._error(
                "tls",
                f"does not speak TLS as expected: {self._said(exc.reason or str(exc))}",
                "check SMTP_PORT and SMTP_SECURITY (tls is usually port 465, starttls 587)",
            )
        if isinstance(exc, smtplib.SMTPServerDisconnected):
            return self._error("out_of_reach", f"ended the connection: {self._said(str(exc))}", cure)
        if isinstance(exc, UnicodeError):
            return self._error(
                "rejected", "cannot be used: only ASCII names are possible", f"{cure}; check MAIL_FROM"
            )
        return self._error("out_of_reach", f"cannot be reached: {self._said(exc.strerror or str(exc))}", cure)

    def _said(self, text: bytes | str) -> str:
        """What a server said, fit for a message, and less our password, should it have quoted that: taken out
        before the text is cut, so that no piece of it is left.
        """
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        username, password = self._server.username or "", self._server.password or ""
        secrets = (password, f"\0{username}\0{password}") if password else ()
        return one_line(redact(said, spellings(secrets)), limit=300)

    def _error(self, kind: str, said: str, hint: str, code: int | None = None) -> NotifyError:
        where = f"{one_line(self._server.host)}:{self._server.port}"
        is_temporary = kind == "out_of_reach" or (code is not None and 400 <= code < 500)
        error = NotifyError(
            f"mail server {where} {said}", kind=kind, hint=hint, retryable=is_temporary, status_code=code
        )
        error.may_have_arrived = self._is_handed_over
        return error


def _kind_of(code: int) -> str:
    """5xx is a refusal; a 4xx passes, and so may nonsense (smtplib's -1)."""
    return "rejected" if code >= 500 else "out_of_reach"


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _is_sendable(recipient: str) -> bool:
    """Exactly one address, which smtplib can put into a command (it would take the first of several)."""
    from email.utils import getaddresses

    addresses = [address for _, address in getaddresses([recipient])]
    return (
        recipient.isprintable()
        and len(addresses) == 1
        and "@" in addresses[0]
        and addresses[0].isascii()
        and " " not in addresses[0]
    )


def _own_name() -> str:
    """The name for EHLO, without asking the DNS: smtplib's own choice, socket.getfqdn, can hang."""
    import socket

    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"

"""Opens an encrypted, logged-in connection to the mail server, and puts its errors into words.

Imported where it is used: a run without news loads neither smtplib nor ssl.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from email.utils import parseaddr
from typing import Any, Final

from shared.base.errors import NotifyError
from shared.base.redaction import redact, spellings
from shared.base.values import MailServer
from shared.notices.wording import one_line

CURE: Final = "check SMTP_HOST, SMTP_PORT and SMTP_SECURITY, and that this machine may reach the server"


def open_connection(
    server: MailServer, on_socket: Callable[[socket.socket], None], on_handover: Callable[[], None]
) -> smtplib.SMTP:
    """Connect, encrypt and log in.

    on_socket: called with the connection's socket as soon as there is one, before the greeting and TLS.
    on_handover: called right before an e-mail itself goes out. Raises NotifyError, and what `translated` puts
    into words.
    """

    class Watched(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            found: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
            on_socket(found)
            return found

        def send(self, s: Any) -> None:
            if isinstance(s, bytes):  # the mail; commands are text
                on_handover()
            super().send(s)

    class WatchedTls(smtplib.SMTP_SSL, Watched):
        pass

    where, name, seconds = (server.host, server.port), _own_name(), server.timeout_seconds
    if server.security == "tls":
        context = _tls_context(server)
        smtp: smtplib.SMTP = WatchedTls(*where, local_hostname=name, timeout=seconds, context=context)
    else:
        smtp = Watched(*where, local_hostname=name, timeout=seconds)
    try:
        if server.security == "starttls":
            _start_tls(smtp, server)
        smtp.ehlo_or_helo_if_needed()
        if server.username is not None:
            _log_in(smtp, server, server.username, server.password or "")
    except BaseException:
        smtp.close()
        raise
    return smtp


def _own_name() -> str:
    """The name for EHLO, without asking the DNS: smtplib's own choice, socket.getfqdn, can hang."""
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def _tls_context(server: MailServer) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=server.ca_bundle)
    except (OSError, ValueError) as exc:
        said = (
            f"cannot be verified: the CA file {server.ca_bundle} cannot be read: {said_by(server, str(exc))}"
        )
        raise trouble(server, "tls", said, "SMTP_CA_BUNDLE must name a readable PEM file") from exc


def _start_tls(smtp: smtplib.SMTP, server: MailServer) -> None:
    try:
        smtp.starttls(context=_tls_context(server))
    except smtplib.SMTPNotSupportedError as exc:
        cure = "set SMTP_SECURITY to tls (usually port 465), or to none on a network you trust"
        raise trouble(server, "tls", "offers no STARTTLS", cure) from exc
    except smtplib.SMTPResponseException as exc:
        said = f"refused STARTTLS: {exc.smtp_code} {said_by(server, exc.smtp_error)}"
        cure = "check SMTP_SECURITY and the server's TLS set-up"
        raise trouble(server, "tls", said, cure, exc.smtp_code) from exc


def _log_in(smtp: smtplib.SMTP, server: MailServer, username: str, password: str) -> None:
    cure = "check SMTP_USERNAME and SMTP_PASSWORD"
    if not (username + password).isascii():
        # smtplib would raise a UnicodeEncodeError, which carries the password.
        said = "accepts only ASCII in the login"
        raise trouble(server, "login_refused", said, cure)
    try:
        smtp.login(username, password)
    except smtplib.SMTPServerDisconnected:
        raise
    except smtplib.SMTPAuthenticationError as exc:
        said = f"{exc.smtp_code} {said_by(server, exc.smtp_error)}"
        kind, said = (
            ("out_of_reach", f"accepts no logins at the moment: {said}")
            if 400 <= exc.smtp_code < 500
            else ("login_refused", f"refused the login of {one_line(username)}: {said}")
        )
        raise trouble(server, kind, said, cure, exc.smtp_code) from exc
    except smtplib.SMTPNotSupportedError as exc:
        said = "offers no login on this connection"
        cure = "set SMTP_SECURITY to starttls or tls, or leave SMTP_USERNAME empty"
        raise trouble(server, "login_refused", said, cure) from exc
    except smtplib.SMTPException as exc:  # smtplib knows none of the ways that it offers
        ways = one_line(smtp.esmtp_features.get("auth", "").strip())
        said = f"accepts no login by user name and password (it offers: {ways})"
        cure = "ask its administrator for a relay that does, or for one that needs no login"
        raise trouble(server, "login_refused", said, cure) from exc


def hand_over(
    smtp: smtplib.SMTP, server: MailServer, recipients: list[str], data: bytes
) -> dict[str, tuple[int, str]]:
    """Give the server one e-mail for these; {recipient: code and words} of those it refuses. Raises what
    `translated` puts into words.
    """
    answers: Mapping[str, tuple[int, bytes | str]]
    try:
        answers = smtp.sendmail(parseaddr(server.sender)[1], recipients, data)
    except smtplib.SMTPRecipientsRefused as exc:
        # After a 421 the rest was not asked, and those accepted before it got nothing either.
        unasked = (421, b"the server ended the connection")
        answers = {one: exc.recipients.get(one, unasked) for one in recipients}
    except smtplib.SMTPDataError as exc:
        answers = dict.fromkeys(recipients, (exc.smtp_code, exc.smtp_error))
    return {one: (code, said_by(server, text)) for one, (code, text) in answers.items()}


def translated(server: MailServer, exc: OSError | UnicodeError) -> NotifyError:
    """What smtplib, ssl and the socket raise, in words."""
    if isinstance(exc, smtplib.SMTPResponseException):
        return _turned_away(server, exc)
    if isinstance(exc, ssl.SSLCertVerificationError):
        said = f"presents a certificate that cannot be verified: {said_by(server, exc.verify_message)}"
        cure = "check SMTP_HOST, the certificate's dates, and SMTP_CA_BUNDLE for a private CA"
        return trouble(server, "tls", said, cure)
    if isinstance(exc, ssl.SSLError):
        said = f"does not speak TLS as expected: {said_by(server, exc.reason or str(exc))}"
        cure = "check SMTP_PORT and SMTP_SECURITY (tls is usually port 465, starttls 587)"
        return trouble(server, "tls", said, cure)
    if isinstance(exc, UnicodeError):
        said = "cannot be used: only ASCII names are possible"
        return trouble(server, "rejected", said, f"{CURE}; check MAIL_FROM")
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        said = f"ended the connection: {said_by(server, str(exc))}"
    else:
        said = f"cannot be reached: {said_by(server, exc.strerror or str(exc))}"
    return trouble(server, "out_of_reach", said, CURE)


def _turned_away(server: MailServer, exc: smtplib.SMTPResponseException) -> NotifyError:
    """The server answered with a code. 5xx is a refusal; a 4xx passes, and so may nonsense (smtplib's -1)."""
    code, said, cure = exc.smtp_code, "refused the connection", CURE
    if isinstance(exc, smtplib.SMTPSenderRefused):
        said = f"refused the sender {exc.sender}"
        cure = "check MAIL_FROM" if code >= 500 else "the next run tries again"
        if code == 530:
            cure = "the server wants a login or TLS first: check SMTP_USERNAME and SMTP_SECURITY"
    kind = "rejected" if code >= 500 else "out_of_reach"
    return trouble(server, kind, f"{said}: {code} {said_by(server, exc.smtp_error)}", cure, code)


def trouble(server: MailServer, kind: str, said: str, hint: str, code: int | None = None) -> NotifyError:
    """The error for a problem of the mail server. code: SMTP's, if it gave one."""
    where = f"{one_line(server.host)}:{server.port}"
    is_temporary = kind == "out_of_reach" or (code is not None and 400 <= code < 500)
    return NotifyError(
        f"mail server {where} {said}", kind=kind, hint=hint, retryable=is_temporary, status_code=code
    )


def said_by(server: MailServer, text: bytes | str) -> str:
    """What a server said, fit for a message, and less our password, should it have quoted that: taken out
    before the text is cut, so that no piece of it is left.
    """
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    username, password = server.username or "", server.password or ""
    secrets = (password, f"\0{username}\0{password}") if password else ()
    return one_line(redact(said, spellings(secrets)), limit=300)

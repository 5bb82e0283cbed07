"""Sends notices to the mail server: one SMTP connection per run.

The SMTP code is imported for the first notice, so that a run without news does not need it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from shared.base.errors import NotifyError
from shared.base.values import DeliveryResult, MailServer, Notice
from shared.notices.message import build_message, is_sendable

if TYPE_CHECKING:
    import smtplib
    import socket

GOODBYE_SECONDS: Final = 5.0


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

    def __exit__(self, *_: object) -> None:
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
        refused = {one: no_address for one in recipients if not is_sendable(one)}
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
        """Send to these; returns the refusals. Reconnects once, if a used connection accepts no more."""
        import smtplib

        from shared.notices.smtp import hand_over

        while True:
            smtp, is_reused = self._connection()
            before_handover()
            try:
                refused = hand_over(smtp, self._server, recipients, data)
            except smtplib.SMTPSenderRefused as exc:
                self._hang_up()
                if is_reused and exc.smtp_code == 421:  # a limit of mails per connection; nothing was sent
                    continue
                raise self._trouble(exc) from exc
            except (OSError, UnicodeError) as exc:
                self._hang_up()
                raise self._trouble(exc) from exc
            if refused and self._is_late:  # an answer that our own break cut short
                self._hang_up()
                raise self._trouble(OSError())
            return refused

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Break the connection when the block inside has not ended in time: smtplib's time-out starts again
        with each byte, so a server that sends one now and then would block us for ever.
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

    def _connection(self) -> tuple[smtplib.SMTP, bool]:
        """A connection that answers, and whether it was used before.

        Servers drop idle clients: a used connection is asked first, while nothing can be sent twice.
        """
        from shared.notices.smtp import open_connection

        if self._smtp is not None:
            try:
                if self._smtp.noop()[0] == 250:
                    return self._smtp, True
            except OSError:
                pass
            self._hang_up()
        try:
            self._smtp = open_connection(self._server, self._watch, self._note_handover)
        except (OSError, UnicodeError) as exc:
            self._hang_up()
            raise self._trouble(exc) from exc
        except NotifyError:
            self._hang_up()
            raise
        return self._smtp, False

    def _watch(self, found: socket.socket) -> None:
        """Keep a second handle of the connection: the first one goes over to TLS."""
        self._line = found.dup()
        if self._is_late:
            self._break()

    def _note_handover(self) -> None:
        self._is_handed_over = True

    def _hang_up(self) -> None:
        """Drop the connection without a word, so that the next send opens a new one."""
        smtp, self._smtp = self._smtp, None
        line, self._line = self._line, None
        if smtp is not None:
            smtp.close()
        if line is not None:
            line.close()

    def _trouble(self, exc: OSError | UnicodeError) -> NotifyError:
        """The connection's error in words, and whether the server may have accepted the e-mail anyway."""
        from shared.notices.smtp import CURE, translated, trouble

        if self._is_late:
            said = f"took longer than {self._server.deadline_seconds:g} s over one e-mail"
            error = trouble(self._server, "out_of_reach", said, CURE)
        else:
            error = translated(self._server, exc)
        error.may_have_arrived = self._is_handed_over
        return error

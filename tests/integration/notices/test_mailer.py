"""Handing notices to a real SMTP server on the loopback."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme

from shared.base.errors import NotifyError
from shared.base.values import MailServer, Notice, NoticeKind
from shared.notifier import Mailer
from simulators.mail import MailSink

SECRET = "s3cret-pass"


def notice(*recipients: str, subject: str = "🛑 A1→A2 Error - Campaign 夏 „Söhne“ 👩‍👩‍👧") -> Notice:
    return Notice(
        id=str(uuid4()),
        kind=NoticeKind.ERROR,
        campaign_id="c1",
        subject=subject,
        text="Grüße →\n.\n.dots and\nFrom here\n" + "x" * 3000 + "\n",
        html="<p>" + "ü" * 3000 + "</p>\n",
        recipients=recipients or ("support@example.com",),
        created_at=datetime(2026, 11, 23, 13, 0, tzinfo=UTC),
    )


def server_for(port: int, **changes: Any) -> MailServer:
    plain = MailServer(
        host="127.0.0.1",
        port=port,
        security="none",
        username=None,
        password=None,
        sender="A1 to A2 <a1@mail.example.com>",
        timeout_seconds=5,
    )
    return replace(plain, **changes)


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with MailSink() as running:
        yield running


@pytest.fixture
def mailer(sink: MailSink) -> Iterator[Mailer]:
    with Mailer(server_for(sink.port)) as open_mailer:
        yield open_mailer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_bundle(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class ScriptedServer:
    """Plays one list of answers per connection; "" stays silent, None hangs up, bytes go as they are."""

    def __init__(self, *connections: list[str | bytes | None]) -> None:
        self.heard: list[list[str]] = []
        self._scripts = connections
        self._done = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(5)
        for script in self._scripts:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                return
            with client, client.makefile("rb") as lines:
                client.settimeout(5)
                self.heard.append([])
                self._play(client, lines, script)

    def _play(self, client: socket.socket, lines: Any, script: list[str | bytes | None]) -> None:
        for number, answer in enumerate(script):
            if number:
                line = lines.readline()
                self.heard[-1].append(line.decode("ascii", "replace").strip())
                if script[number - 1] == "354 go on":
                    while line not in (b".\r\n", b""):
                        line = lines.readline()
            if answer is None:
                return
            if answer == "":
                self._done.wait(5)
                return
            client.sendall(answer if isinstance(answer, bytes) else f"{answer}\r\n".encode())


# --- the good days ------------------------------------------------------------------------------------------


def test_send__plain_and_read_back_exactly(sink: MailSink, mailer: Mailer) -> None:
    sent = notice("support@example.com", "oncall@example.com")
    result = mailer.send(sent)
    assert (result.accepted, result.refused) == (sent.recipients, {})
    (received,) = sink.messages
    assert received.envelope_from == "a1@mail.example.com"
    assert received.envelope_to == sent.recipients
    assert received.message["Subject"] == sent.subject
    assert received.message["Message-ID"] == f"<{sent.id}@mail.example.com>"
    text, html = received.message.iter_parts()
    assert text.get_content() == sent.text
    assert html.get_content() == sent.html
    assert max(map(len, received.raw.split(b"\r\n"))) <= 998


def test_send__one_connection_for_all(sink: MailSink, mailer: Mailer) -> None:
    assert sink.connections == 0
    for _ in range(5):
        mailer.send(notice())
    assert sink.connections == 1
    assert len(sink.messages) == 5


def test_send__same_message_id_when_repeated(sink: MailSink, mailer: Mailer) -> None:
    sent = notice()
    mailer.send(sent)
    mailer.send(sent)
    first, second = (received.message for received in sink.messages)
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]


def test_send__nobody_and_nothing_to_close() -> None:
    with Mailer(server_for(9)) as mailer:
        result = mailer.send(replace(notice(), recipients=()))
    assert (result.accepted, result.refused) == ((), {})


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_send__encrypted_and_logged_in(security: Any, server_tls: ssl.SSLContext, ca_bundle: str) -> None:
    with MailSink(security=security, ssl_context=server_tls, username="robot", password=SECRET) as sink:
        server = server_for(
            sink.port, security=security, username="robot", password=SECRET, ca_bundle=ca_bundle
        )
        with Mailer(server) as mailer:
            assert mailer.send(notice()).accepted == ("support@example.com",)
        (received,) = sink.messages
        assert received.tls
        assert received.authenticated_as == "robot"


# --- refusals are results -----------------------------------------------------------------------------------


def test_refused__some(sink: MailSink, mailer: Mailer) -> None:
    sink.refuse("gone@example.com", 550, "no such user")
    sink.refuse("full@example.com", 452, "mailbox full")
    result = mailer.send(notice("gone@example.com", "support@example.com", "full@example.com"))
    assert result.accepted == ("support@example.com",)
    assert result.refused == {
        "gone@example.com": (550, "no such user"),
        "full@example.com": (452, "mailbox full"),
    }
    assert [received.envelope_to for received in sink.messages] == [("support@example.com",)]


def test_refused__all_and_the_next_notice_still_goes(sink: MailSink, mailer: Mailer) -> None:
    sink.refuse("gone@example.com", 550, "no such user")
    result = mailer.send(notice("gone@example.com"))
    assert (result.accepted, result.refused) == ((), {"gone@example.com": (550, "no such user")})
    assert mailer.send(notice()).accepted == ("support@example.com",)


def test_refused__the_message_itself_counts_for_each_recipient(sink: MailSink, mailer: Mailer) -> None:
    sink.refuse_all(554, "looks like spam", stage="data")
    result = mailer.send(notice("a@example.com", "b@example.com"))
    assert result.accepted == ()
    assert result.refused == dict.fromkeys(("a@example.com", "b@example.com"), (554, "looks like spam"))
    sink.reset()
    assert mailer.send(notice()).accepted


@pytest.mark.parametrize("bad", ["nobody", "ü@example.com", "a@b\r\nRCPT TO:<x@y>", "a@b.c, d@e.f", ""])
def test_refused__an_impossible_address_stops_nobody(sink: MailSink, mailer: Mailer, bad: str) -> None:
    result = mailer.send(notice(bad, "support@example.com"))
    assert result.accepted == ("support@example.com",)
    assert result.refused[bad][0] == 553
    assert [received.envelope_to for received in sink.messages] == [("support@example.com",)]


def test_refused__421_amid_the_recipients_accepts_nobody() -> None:
    hello = ["220 hi", "250 ok", "250 sender ok"]
    with (
        ScriptedServer([*hello, "250 ok", "421 going down"]) as server,
        Mailer(server_for(server.port)) as mailer,
    ):
        result = mailer.send(notice("a@example.com", "b@example.com", "c@example.com"))
    assert result.accepted == ()
    assert {code for code, _ in result.refused.values()} == {421}
    assert set(result.refused) == {"a@example.com", "b@example.com", "c@example.com"}


# --- a broken connection ------------------------------------------------------------------------------------


def test_dropped__idle_connection_is_opened_again(sink: MailSink, mailer: Mailer) -> None:
    mailer.send(notice())
    sink.stop()
    sink.start()
    assert mailer.send(notice()).accepted
    assert len(sink.messages) == 2


def test_dropped__limit_of_mails_per_connection() -> None:
    one_mail = ["220 hi", "250 ok", "250 sender ok", "250 rcpt ok", "354 go on", "250 taken"]
    with (
        ScriptedServer([*one_mail, "250 noop", "421 enough"], [*one_mail, "221 bye"]) as server,
        Mailer(server_for(server.port)) as mailer,
    ):
        assert mailer.send(notice()).accepted
        assert mailer.send(notice()).accepted
    assert len(server.heard) == 2


def test_dropped__after_data_is_never_repeated(sink: MailSink, mailer: Mailer) -> None:
    sink.drop_after_data = True
    with pytest.raises(NotifyError) as caught:
        mailer.send(notice())
    assert (caught.value.kind, caught.value.retryable) == ("out_of_reach", True)
    assert len(sink.messages) == 1
    sink.drop_after_data = False
    assert mailer.send(notice()).accepted


def test_dropped__421_on_a_fresh_connection_is_told(sink: MailSink, mailer: Mailer) -> None:
    sink.refuse_all(421, "too busy", stage="mail")
    with pytest.raises(NotifyError) as caught:
        mailer.send(notice())
    assert (caught.value.kind, caught.value.retryable, caught.value.status_code) == (
        "out_of_reach",
        True,
        421,
    )


# --- trouble with the server --------------------------------------------------------------------------------


def trouble(server: MailServer) -> NotifyError:
    with Mailer(server) as mailer, pytest.raises(NotifyError) as caught:
        mailer.send(notice())
    error = caught.value
    assert f"{server.host}:{server.port}" in error.message
    assert error.hint
    chain: BaseException | None = error
    while chain is not None:
        assert SECRET not in f"{chain!r} {chain} {vars(chain)}"
        chain = chain.__cause__ or chain.__context__
    return error


def test_trouble__server_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = trouble(server_for(port))
    assert (error.kind, error.retryable, error.is_out_of_reach) == ("out_of_reach", True, True)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert "SMTP_HOST" in error.hint


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_trouble__unknown_host(host: str) -> None:
    assert trouble(server_for(25, host=host)).kind in {"out_of_reach", "rejected"}


def test_trouble__silent_server_times_out() -> None:
    with ScriptedServer([""]) as server:
        error = trouble(server_for(server.port, timeout_seconds=0.2))
    assert (error.kind, error.retryable) == ("out_of_reach", True)


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [("554 go away", "rejected"), ("421 busy", "out_of_reach"), (b"\x15\x03\x01\r\n", "out_of_reach")],
)
def test_trouble__turned_away_at_the_door(greeting: str | bytes, kind: str) -> None:
    with ScriptedServer([greeting]) as server:
        assert trouble(server_for(server.port)).kind == kind


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_trouble__unknown_authority(security: Any, server_tls: ssl.SSLContext) -> None:
    with MailSink(security=security, ssl_context=server_tls) as sink:
        error = trouble(server_for(sink.port, security=security))
        assert not sink.messages
    assert (error.kind, error.retryable) == ("tls", False)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert "SMTP_CA_BUNDLE" in error.hint


def test_trouble__certificate_of_another_host(authority: trustme.CA, ca_bundle: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example.com").configure_cert(context)
    with MailSink(security="tls", ssl_context=context) as sink:
        assert trouble(server_for(sink.port, security="tls", ca_bundle=ca_bundle)).kind == "tls"


def test_trouble__no_starttls_offered(sink: MailSink) -> None:
    error = trouble(server_for(sink.port, security="starttls", username="robot", password=SECRET))
    assert (error.kind, error.retryable) == ("tls", False)
    assert "offers no STARTTLS" in error.message
    assert not sink.messages


def test_trouble__tls_on_a_plain_port(sink: MailSink) -> None:
    assert trouble(server_for(sink.port, security="tls")).kind == "tls"


def test_trouble__unreadable_ca_bundle(sink: MailSink, server_tls: ssl.SSLContext, tmp_path: Path) -> None:
    assert sink.port
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for path in (broken, tmp_path / "missing.pem"):
        error = trouble(server_for(sink.port, security="tls", ca_bundle=str(path)))
        assert error.kind == "tls"
        assert str(path) in error.message


def test_trouble__login_refused(server_tls: ssl.SSLContext, ca_bundle: str) -> None:
    with MailSink(security="starttls", ssl_context=server_tls, username="robot", password="other") as sink:
        server = server_for(sink.port, security="starttls", ca_bundle=ca_bundle)
        error = trouble(replace(server, username="robot", password=SECRET))
        assert (error.kind, error.retryable, error.status_code) == ("login_refused", False, 535)
        assert "SMTP_PASSWORD" in error.hint
        # and without a login at all
        error = trouble(server)
        assert (error.kind, error.status_code) == ("rejected", 530)
        assert "SMTP_USERNAME" in error.hint


def test_trouble__login_not_offered(sink: MailSink) -> None:
    error = trouble(server_for(sink.port, username="robot", password=SECRET))
    assert error.kind == "login_refused"
    assert "offers no login" in error.message


def test_trouble__login_by_password_not_offered() -> None:
    with ScriptedServer(["220 hi", b"250-me\r\n250 AUTH XOAUTH2\r\n"]) as server:
        error = trouble(server_for(server.port, username="robot", password=SECRET))
    assert error.kind == "login_refused"
    assert "accepts no login by user name and password (it offers: XOAUTH2)" in error.message


def test_trouble__login_later() -> None:
    with ScriptedServer(["220 hi", b"250-me\r\n250 AUTH PLAIN\r\n", "454 try later"]) as server:
        error = trouble(server_for(server.port, username="robot", password=SECRET))
    assert (error.kind, error.retryable) == ("out_of_reach", True)


def test_trouble__password_that_smtplib_cannot_send(sink: MailSink) -> None:
    error = trouble(server_for(sink.port, username="robot", password=f"{SECRET}-ü"))
    assert error.kind == "login_refused"


def test_trouble__sender_refused(sink: MailSink) -> None:
    sink.refuse_all(550, "not you\r\nBcc: x", stage="mail")
    error = trouble(server_for(sink.port))
    assert (error.kind, error.retryable, error.status_code) == ("rejected", False, 550)
    assert "a1@mail.example.com" in error.message
    assert "MAIL_FROM" in error.hint


def test_trouble__next_send_opens_a_new_connection(sink: MailSink, mailer: Mailer) -> None:
    sink.refuse_all(451, "later", stage="mail")
    with pytest.raises(NotifyError) as caught:
        mailer.send(notice())
    assert caught.value.retryable
    assert sink.connections == 1
    sink.reset()
    assert mailer.send(notice()).accepted
    assert sink.connections == 2


def test_server__password_is_not_shown() -> None:
    assert SECRET not in repr(server_for(25, username="robot", password=SECRET))


# --- a server that holds us, and one that says what it heard ------------------------------------------------


class Dripping:
    """Answers a byte now and then, so that no time-out of ours ever comes; from this answer on."""

    def __init__(self, begins_at: int) -> None:
        self._begins_at = begins_at
        self._done = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Dripping:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        answers = [
            b"220 hi",
            b"250 ok",
            b"250 sender ok",
            b"250 rcpt ok",
            b"354 go on",
            b"250 taken",
            b"221 bye",
        ]
        with client, client.makefile("rb") as lines:
            for number, answer in enumerate(answers):
                if number and not lines.readline():
                    return
                if answers[number - 1] == b"354 go on":
                    while lines.readline() not in (b".\r\n", b""):
                        pass
                if number < self._begins_at:
                    client.sendall(answer + b"\r\n")
                    continue
                while not self._done.wait(0.05):
                    try:
                        client.sendall(answer[:1])
                    except OSError:
                        return


@pytest.mark.parametrize(("begins_at", "may_have_arrived"), [(0, False), (1, False), (3, False), (5, True)])
def test_dripping_server__is_left_at_the_deadline(begins_at: int, may_have_arrived: bool) -> None:
    with Dripping(begins_at) as server:
        error = trouble(server_for(server.port, deadline_seconds=0.5))
    assert (error.kind, error.retryable) == ("out_of_reach", True)
    assert "took longer than 0.5 s over one e-mail" in error.message
    assert error.may_have_arrived is may_have_arrived


def test_dripping_server__does_not_hold_the_goodbye() -> None:
    with Dripping(6) as server:
        mailer = Mailer(server_for(server.port, timeout_seconds=0.5))
        assert mailer.send(notice()).accepted
        began = time.monotonic()
        mailer.close()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_deadline__breaks_a_connection_under_tls(
    security: Any, server_tls: ssl.SSLContext, ca_bundle: str
) -> None:
    with MailSink(security=security, ssl_context=server_tls) as sink:
        sink.delay_seconds = 60.0
        server = server_for(
            sink.port, security=security, ca_bundle=ca_bundle, timeout_seconds=60, deadline_seconds=1.0
        )
        error = trouble(server)
    assert "took longer than 1 s" in error.message
    assert error.may_have_arrived


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_login_echoed__shows_no_password(mechanism: str) -> None:
    """Some servers quote the line they refuse."""
    password = "correct-horse-7"
    plain = base64.b64encode(f"\0robot\0{password}".encode()).decode()
    login = base64.b64encode(password.encode()).decode()
    hello = ["220 hi", f"250-me\r\n250 AUTH {mechanism}".encode() + b"\r\n"]
    long_line = "x" * 270  # where the message is cut, nothing may be left either
    if mechanism == "PLAIN":
        script: list[str | bytes | None] = [*hello, f"535 cannot do AUTH PLAIN {plain} {long_line} {plain}"]
    else:
        script = [*hello, "334 UGFzc3dvcmQ6", f"535 cannot do {login} {long_line} {login}"]
    with ScriptedServer(script) as server:
        error = trouble(server_for(server.port, username="robot", password=password))
    assert error.kind == "login_refused"
    for secret in (plain, login):
        for start in range(len(secret) - 8):
            assert secret[start : start + 8] not in str(error)

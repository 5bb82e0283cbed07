"""The mail sink, as smtplib sees it."""

import os
import signal
import smtplib
import ssl
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simulators.mail import MailSink

if TYPE_CHECKING:
    from conftest import Tls

MAIL_SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "simulators" / "mail.py"
SENDER = "robot@example.com"
TIMEOUT_SECONDS = 5


def make_message(*recipients: str) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "⚠️ No Assets Found (Attempt 1/3) - Campaign Frühling"
    message["From"] = SENDER
    message["To"] = ", ".join(recipients)
    message.set_content("Grüße\n.a line that begins with a dot\n")
    message.add_alternative("<p>Grüße</p>", subtype="html")
    return message


def connect(sink: MailSink) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", sink.port, local_hostname="test", timeout=TIMEOUT_SECONDS)


def send(sink: MailSink, *recipients: str) -> dict[str, tuple[int, bytes]]:
    with connect(sink) as client:
        return client.send_message(make_message(*recipients), SENDER, recipients)


def test_plain__keeps_the_whole_message(mail: MailSink) -> None:
    assert send(mail, "a@example.com", "b@example.com") == {}
    [received] = mail.messages
    assert received.envelope_from == SENDER
    assert received.envelope_to == ("a@example.com", "b@example.com")
    assert received.message["Subject"] == "⚠️ No Assets Found (Attempt 1/3) - Campaign Frühling"
    text, html = received.message.get_body(("plain",)), received.message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == "Grüße\n.a line that begins with a dot\n"
    assert html.get_content() == "<p>Grüße</p>\n"
    assert (received.tls, received.authenticated_as) == (False, None)
    assert received.at.tzinfo is not None


def test_plain__offers_no_login(mail: MailSink) -> None:
    with connect(mail) as client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.login("someone", "something")


def test_starttls__needs_encryption_and_login(tls: "Tls") -> None:
    with MailSink(
        security="starttls", ssl_context=tls.server_context, username="robot", password="secret"
    ) as sink:
        with connect(sink) as client, pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
            client.send_message(make_message("a@example.com"))
        with connect(sink) as client:
            client.starttls(context=tls.client_context)
            with pytest.raises(smtplib.SMTPSenderRefused, match="Authentication required"):
                client.send_message(make_message("a@example.com"))
    assert sink.messages == []


def test_starttls__login_opens_the_way(tls: "Tls") -> None:
    with MailSink(
        security="starttls", ssl_context=tls.server_context, username="robot", password="secret"
    ) as sink:
        with connect(sink) as client:
            client.starttls(context=tls.client_context)
            client.login("robot", "secret")
            client.send_message(make_message("a@example.com"))
        [received] = sink.messages
        assert (received.tls, received.authenticated_as) == (True, "robot")


def test_starttls__client_that_does_not_trust_us(tls: "Tls") -> None:
    with MailSink(security="starttls", ssl_context=tls.server_context) as sink:
        client = connect(sink)
        with pytest.raises(ssl.SSLCertVerificationError):
            client.starttls(context=ssl.create_default_context())
        client.close()
        with connect(sink) as client:  # and the next one is served
            client.starttls(context=tls.client_context)
            client.send_message(make_message("a@example.com"))
        assert len(sink.messages) == 1


def test_tls__from_the_first_byte(tls: "Tls") -> None:
    with MailSink(
        security="tls", ssl_context=tls.server_context, username="robot", password="secret"
    ) as sink:
        with smtplib.SMTP_SSL(
            "127.0.0.1",
            sink.port,
            local_hostname="test",
            timeout=TIMEOUT_SECONDS,
            context=tls.client_context,
        ) as client:
            client.login("robot", "secret")
            client.send_message(make_message("a@example.com"))
        [received] = sink.messages
        assert (received.tls, received.authenticated_as) == (True, "robot")


def test_login__refused(tls: "Tls") -> None:
    with MailSink(
        security="starttls", ssl_context=tls.server_context, username="robot", password="secret"
    ) as sink:
        with connect(sink) as client:
            client.starttls(context=tls.client_context)
            with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
                client.login("robot", "guessed")
        sink.refuse_login = True
        with connect(sink) as client:
            client.starttls(context=tls.client_context)
            with pytest.raises(smtplib.SMTPAuthenticationError) as right:
                client.login("robot", "secret")
        assert (wrong.value.smtp_code, right.value.smtp_code) == (535, 535)


def test_refuse__is_returned_per_recipient(mail: MailSink) -> None:
    mail.refuse("bounce@example.com", 550, "5.1.1 no such user")
    mail.refuse("slow@example.com", 451, "4.3.0 try later")
    refused = send(mail, "Bounce@example.com", "ok@example.com", "slow@example.com")
    assert refused == {
        "Bounce@example.com": (550, b"5.1.1 no such user"),
        "slow@example.com": (451, b"4.3.0 try later"),
    }
    assert mail.messages[0].envelope_to == ("ok@example.com",)


def test_refuse_all__at_each_stage_and_reset(mail: MailSink) -> None:
    mail.refuse_all(452, "4.2.2 mailbox full")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(mail, "a@example.com")
    mail.reset()
    mail.refuse_all(421, "4.3.2 closing", stage="mail")
    with pytest.raises(smtplib.SMTPSenderRefused):
        send(mail, "a@example.com")
    mail.reset()
    mail.refuse_all(554, "5.6.0 spam", stage="data")
    with pytest.raises(smtplib.SMTPDataError):
        send(mail, "a@example.com")
    assert mail.messages == []
    mail.relent()
    assert send(mail, "a@example.com") == {}
    mail.relent()
    assert len(mail.messages) == 1


def test_drop_after_data__keeps_the_mail_and_breaks_off(mail: MailSink) -> None:
    mail.drop_after_data = True
    client = connect(mail)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(make_message("a@example.com"))
    client.close()
    assert len(mail.messages) == 1


def test_stop__breaks_open_connections_and_frees_the_port() -> None:
    sink = MailSink()
    sink.start()
    idle, port = connect(sink), sink.port
    sink.stop()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        idle.noop()
    idle.close()
    sink.start()  # the same port again, as after a mail server's restart
    assert sink.port == port
    assert send(sink, "a@example.com") == {}
    sink.stop()


def test_mailbox__numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        with MailSink(mailbox=tmp_path / "mailbox") as sink:
            send(sink, "a@example.com", "b@example.com")
    files = sorted((tmp_path / "mailbox").iterdir())
    assert [file.name for file in files] == ["0001.eml", "0002.eml"]
    written = files[1].read_bytes()
    assert b"X-Envelope-To: a@example.com, b@example.com\r\n" in written
    assert written.endswith(sink.messages[0].raw)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_by_hand__prints_settings_and_stops_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, str(MAIL_SCRIPT), "--port", "0", "--mailbox", str(tmp_path / "mailbox")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    with program:
        assert program.stdout is not None
        assert program.stderr is not None
        told = dict(program.stdout.readline().strip().split("=", 1) for _ in range(3))
        with smtplib.SMTP(told["SMTP_HOST"], int(told["SMTP_PORT"]), timeout=TIMEOUT_SECONDS) as client:
            client.send_message(make_message("a@example.com"))
        program.send_signal(number)
        assert program.wait(10) == 0
        assert program.stderr.read() == ""
    assert told["SMTP_SECURITY"] == "none"
    assert (tmp_path / "mailbox" / "0001.eml").is_file()

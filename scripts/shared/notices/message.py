"""A notice as an e-mail."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from shared.base.values import Notice
from shared.notices.wording import one_line

if TYPE_CHECKING:
    from email.message import EmailMessage
    from email.policy import EmailPolicy


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
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<{notice.id}@{domain}>"
    if notice.cycle is not None:  # no e-mail has this id: it stands for the cycle, and is the thread's first
        thread = sha256(notice.campaign_id.encode("utf-8", "replace")).hexdigest()[:32]
        message["References"] = f"<{thread}.{notice.cycle}@{domain}>"
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
        does not keep every space next to an encoded word.
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


def is_sendable(recipient: str) -> bool:
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

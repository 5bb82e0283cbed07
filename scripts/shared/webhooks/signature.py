"""Signs messages by Standard Webhooks (https://www.standardwebhooks.com, "symmetric signatures"). Pure."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime


def signed_headers(message_id: str, at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers of a signed message. secrets: each is `whsec_` and base64, and makes a signature, so
    that a receiver can verify the message with the old key or the new one.
    """
    timestamp = str(int(at.timestamp()))
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = (b64decode(secret.removeprefix("whsec_")) for secret in secrets)
    signatures = (b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }

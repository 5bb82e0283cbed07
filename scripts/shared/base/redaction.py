"""Removes secrets from texts, in every spelling. Pure."""

from __future__ import annotations

import html
import json
import re
from binascii import b2a_base64
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST_SECRET = 4
"""Shorter secrets are not removed, because that would damage ordinary words; no message shows them."""
LONGEST_WORD = 12
"""Base64 up to this length that looks like an ordinary word counts as one."""
BLANK = "***"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape_line(text: str) -> str:
    """Text from outside on one line: line breaks and other unprintable characters shown as escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_json(text: str) -> str:
    """JSON text on one line for every program: unprintable characters as JSON's own escapes."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def redact(text: str, forms: Iterable[str]) -> str:
    """The text without any of these forms (see `spellings`)."""
    for form in forms:
        text = text.replace(form, BLANK)
    return text


def spellings(secrets: Collection[str]) -> list[str]:
    """Each secret in every form: plain, escaped, in JSON, in a URL, a form, HTML, a repr, in base64.
    Longest first, so that no part remains.
    """
    found: set[str] = set()
    for secret in secrets:
        if len(secret) < SHORTEST_SECRET:
            continue
        data = secret.encode("utf-8", "surrogatepass")
        plain_json = json.dumps(secret, ensure_ascii=False)[1:-1]
        found |= {
            *(secret, escape_line(secret), html.escape(secret), repr(secret)[1:-1]),
            *(json.dumps(secret)[1:-1], plain_json, escape_json(plain_json), escape_line(plain_json)),
            *(quote(data, safe=""), quote(data), quote_plus(data)),
            *_in_base64(data),
        }
    return sorted(found, key=len, reverse=True)


def _in_base64(data: bytes) -> Iterator[str]:
    """The forms of the data inside a base64 text: it may begin at three places in a group of four characters,
    and may or may not end the text. Characters that it shares with its neighbours are left out.
    """
    for lead in range(3):
        whole = b2a_base64(bytes(lead) + data, newline=False).decode()[(0, 2, 3)[lead] :]
        bare = whole.rstrip("=")
        ends = {whole, bare, bare if whole == bare else bare[:-1]}
        for form in ends | {end.replace("+", "-").replace("/", "_") for end in ends}:
            if not _is_word(form):
                yield form


def _is_word(text: str) -> bool:
    """Whether an ordinary text may contain this by chance."""
    return len(text) < SHORTEST_SECRET or (
        len(text) < LONGEST_WORD and text.isalpha() and (text[1:].islower() or text.isupper())
    )

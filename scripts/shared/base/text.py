"""Makes text from outside fit for PostgreSQL and JSON. Pure."""

from __future__ import annotations

import re

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def replace_unstorable(text: str) -> str:
    """The text with U+FFFD for each NUL and each half of a surrogate pair, which PostgreSQL refuses.

    Half surrogates come from JSON, and from bytes of a command line that are not UTF-8.
    """
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)

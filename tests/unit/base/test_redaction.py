"""Secrets by value, in whatever spelling they turn up; and ordinary words left alone."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.base.redaction import BLANK, redact, spellings

secrets = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=8, max_size=40)
around = st.binary(max_size=9)


@given(secret=secrets, before=around, after=around, is_url=st.booleans())
def test_base64__of_a_text_that_holds_it_shows_no_piece(
    secret: str, before: bytes, after: bytes, is_url: bool
) -> None:
    """At most the character that the secret shares with its neighbour is left, on either side."""
    data = secret.encode()
    encode = base64.urlsafe_b64encode if is_url else base64.b64encode
    whole = encode(before + data + after).decode()
    left = redact(f"535 no: {whole} refused", spellings([secret]))
    own = whole[-(-len(before) * 4 // 3) : (len(before) + len(data)) * 4 // 3]
    pieces = {own[start : start + 6] for start in range(1, len(own) - 6)}
    assert BLANK in left
    assert not [piece for piece in pieces if piece in left]


@pytest.mark.parametrize("password", ["hunter2", "pass", "s3cret-pass", "ü-Umlaut", "aaaa"])
@pytest.mark.parametrize("username", ["", "r", "ro", "robot@example.com"])
def test_auth_lines__are_blanked(password: str, username: str) -> None:
    plain = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    login = base64.b64encode(password.encode()).decode()
    for line in (f"AUTH PLAIN {plain}", login, f"{login}\r\n", f'"{login}"'):
        left = redact(f"500 what is {line}?", spellings([password]))
        assert BLANK in left
        assert login.rstrip("=") not in left
        assert plain.rstrip("=")[-4:] not in left


def test_ordinary_words__stay() -> None:
    text = "the mail server refused the login of robot: Username and Password not accepted, UNKNOWN tail"
    forms = spellings(
        [f"{word}{number}" for word in ("mail", "s3cr", "Tr0ub4dor", "xkcd") for number in range(99)]
    )
    assert redact(text, forms) == text

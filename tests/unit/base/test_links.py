"""Addresses with ids from outside in them."""

from __future__ import annotations

from dataclasses import fields
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostile import ATTACKS
from shared.base.links import NO_LINKS, NOT_IN_A_PATH, Links

LINKS = Links(
    dam="https://dam.example.com/teams/#/folder/{campaign_id}/open",
    box="https://app.box.com/folder/{folder_id}",
    page="https://page.example.com/a1",
)
HEX_ID = "5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f"


def test_links__of_an_ordinary_campaign() -> None:
    assert LINKS.campaign(HEX_ID) == f"https://page.example.com/a1/campaigns/{HEX_ID}"
    assert LINKS.dam_folder(HEX_ID) == f"https://dam.example.com/teams/#/folder/{HEX_ID}/open"
    assert LINKS.box_folder("3123") == "https://app.box.com/folder/3123"
    assert LINKS.campaigns("failed") == "https://page.example.com/a1/campaigns?state=failed"
    assert LINKS.on_page("/runs") == "https://page.example.com/a1/runs"


def test_links__without_an_address_or_an_id_are_empty() -> None:
    assert all(getattr(NO_LINKS, one.name) == "" for one in fields(Links))
    assert NO_LINKS.campaign(HEX_ID) == NO_LINKS.dam_folder(HEX_ID) == NO_LINKS.box_folder("1") == ""
    assert NO_LINKS.campaigns("failed") == NO_LINKS.on_page("/runs") == ""
    assert LINKS.box_folder(None) == LINKS.box_folder("") == ""


@pytest.mark.parametrize("campaign_id", NOT_IN_A_PATH)
def test_id__that_browsers_take_out_of_a_path_has_no_link(campaign_id: str) -> None:
    assert LINKS.campaign(campaign_id) == LINKS.dam_folder(campaign_id) == ""


def assert_is_one_segment(text: str) -> None:
    """Whatever the id, the address opens our host, with the id as one piece of its path."""
    for address, host, before, after in (
        (LINKS.campaign(text), "page.example.com", "https://page.example.com/a1/campaigns/", ""),
        (LINKS.dam_folder(text), "dam.example.com", "https://dam.example.com/teams/#/folder/", "/open"),
        (LINKS.box_folder(text), "app.box.com", "https://app.box.com/folder/", ""),
    ):
        if not address:
            assert text in NOT_IN_A_PATH
            continue
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query) == ("https", host, "")
        segment = address.removeprefix(before).removesuffix(after)
        assert address == before + segment + after
        assert not set(segment) & set("/\\?#:@&\"'<>{} ")
        assert segment.isascii()
        assert segment.isprintable()
        assert unquote(segment) == text.encode("utf-8", "replace").decode()


@given(st.text(st.one_of(st.characters(), st.sampled_from(list("/\\?#%&.:@ \r\n\0\"'<>{}\ud800")))))
@example("{campaign_id}")
@example("{folder_id}")
@example("../../notices")
@example("javascript:alert(1)")
@example("%2e%2e")
@example("@evil.example.com")
def test_hostile__an_id_is_one_segment_of_the_path(text: str) -> None:
    assert_is_one_segment(text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile__texts_of_the_suite(attack: str) -> None:
    assert_is_one_segment(attack)

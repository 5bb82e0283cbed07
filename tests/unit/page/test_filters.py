"""The filter of the list of campaigns, as it stands in an address."""

from __future__ import annotations

import pytest

from shared.page.filters import Filter


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"state": "failed"},
        {"state": "stuck", "q": "100% <b>_'", "older": "7"},
        {"older": "0"},
    ],
)
def test_filter__comes_back_from_its_address(args: dict[str, str]) -> None:
    assert Filter.read(args).query() == args


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"state": "broken"}, "state must be one of stuck, failed,"),
        ({"older": "-1"}, "older must be a number"),
        ({"older": "99999"}, "older must be a number"),
        ({"older": "1e3"}, "older must be a number"),
        ({"q": "x" * 201}, "at most 200 letters"),
    ],
)
def test_filter__says_what_is_wrong(args: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Filter.read(args)


def test_filter__takes_what_postgresql_cannot_store() -> None:
    assert Filter.read({"q": " a\0b\ud800 "}).q == "a\ufffdb\ufffd"

"""Builds addresses that people open: of a campaign's folder in the DAM and in Box, and of its page."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

CAMPAIGN_ID, FOLDER_ID = "{campaign_id}", "{folder_id}"
"""What DAM_WEB_URL and BOX_WEB_URL have instead of an id."""


@dataclass(frozen=True, slots=True)
class Links:
    """The web addresses of this installation's DAM, Box and page; "" for one that is not set.

    dam, box: with CAMPAIGN_ID or FOLDER_ID where the id goes. page: without a trailing slash.
    """

    dam: str = ""
    box: str = ""
    page: str = ""

    def dam_folder(self, campaign_id: str) -> str:
        """The campaign's folder in the DAM; "" without DAM_WEB_URL."""
        return _placed(self.dam, CAMPAIGN_ID, campaign_id)

    def box_folder(self, folder_id: str | None) -> str:
        """The campaign's folder in Box; "" without BOX_WEB_URL, or without a folder."""
        return _placed(self.box, FOLDER_ID, folder_id or "")

    def campaign(self, campaign_id: str) -> str:
        """The campaign on the operator's page; "" without ADMIN_URL."""
        return _placed(self.on_page(f"/campaigns/{CAMPAIGN_ID}"), CAMPAIGN_ID, campaign_id)

    def campaigns(self, state: str) -> str:
        """The page's list of the campaigns in a state, such as failed; "" without ADMIN_URL."""
        return self.on_page(f"/campaigns?state={state}")

    def on_page(self, path: str) -> str:
        """A path of the operator's page, such as /notices; "" without ADMIN_URL."""
        return f"{self.page}{path}" if self.page else ""


NO_LINKS = Links()
"""The links of an installation without addresses."""

NOT_IN_A_PATH = ("", ".", "..")
"""Browsers remove these from a path in every spelling, so an address with one opens something else."""


def _placed(template: str, place: str, text: str) -> str:
    """The address with an id in its place; "" if no address can contain it.

    Ids come from outside: nothing in them may end the path. A lone surrogate becomes "?".
    """
    return "" if text in NOT_IN_A_PATH else template.replace(place, quote(text, safe="", errors="replace"))

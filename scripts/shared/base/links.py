"""Addresses that people open: of a campaign's folder in the DAM and in Box, and of its page."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

CAMPAIGN_ID, FOLDER_ID = "{campaign_id}", "{folder_id}"
"""What DAM_WEB_URL and BOX_WEB_URL have in the place of an id."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where this installation's DAM, Box and page can be opened; "" for what has no address here.

    dam, box: with CAMPAIGN_ID, or FOLDER_ID, where the id belongs. page: without a trailing slash.
    """

    dam: str = ""
    box: str = ""
    page: str = ""

    def dam_folder(self, campaign_id: str) -> str:
        """The campaign's folder in the DAM; "" without DAM_WEB_URL."""
        return self.dam.replace(CAMPAIGN_ID, _quoted(campaign_id))

    def box_folder(self, folder_id: str | None) -> str:
        """The campaign's folder in Box; "" without BOX_WEB_URL, or while it has none."""
        return self.box.replace(FOLDER_ID, _quoted(folder_id)) if folder_id else ""

    def campaign(self, campaign_id: str) -> str:
        """The campaign on the operator's page; "" without ADMIN_URL."""
        return f"{self.page}/campaigns/{_quoted(campaign_id)}" if self.page else ""

    def on_page(self, path: str) -> str:
        """A path of the operator's page, such as /notices; "" without ADMIN_URL."""
        return f"{self.page}{path}" if self.page else ""


def _quoted(text: str) -> str:
    """Ids come from outside: nothing in them may end the path. A lone surrogate becomes "?"."""
    return quote(text, safe="", errors="replace")

"""Describes folders in Box, for the transfer."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.base.values import BoxFile, BoxFolderListing


@dataclass(slots=True)
class Place:
    """A folder in Box and its known content. Names are exact: only Box's own 409 shows which names it
    considers equal.
    """

    folder_id: str
    path: str
    files_by_id: dict[str, BoxFile] = field(default_factory=dict)
    files_by_name: dict[str, BoxFile] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder_id: str, path: str, listing: BoxFolderListing) -> Place:
        return cls(
            folder_id,
            path,
            {file.id: file for file in listing.files},
            {file.name: file for file in listing.files},
            {name: folder for folder, name in listing.folders.items()},
        )

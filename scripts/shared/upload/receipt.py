"""Writes the receipt next to a campaign's files in Box, and compares the DAM and Box afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from shared.base.errors import BoxError, DamError
from shared.base.values import Asset, BoxFile, Campaign, LedgerEntry, MasterAssets, ReceiptEntry
from shared.box.client import SMALL_FILE_LIMIT, BoxClient
from shared.box.refusals import MOST_CONFLICTS, NameTakenError
from shared.rules.names import SHORT_ID_LENGTH, distinguish
from shared.upload.download import Source, read_sha1
from shared.upload.places import Place
from shared.upload.progress import Progress

logger = logging.getLogger(__name__)

RECEIPT_NAME = "_manifest.json"
RECEIPT_VERSION = 1


def receipt(campaign: Campaign, entries: Sequence[ReceiptEntry], *, run_id: str, now: datetime) -> bytes:
    """The receipt's text: which campaign, when, by which run, and every file with both ids and its SHA-1."""
    document = {
        "version": RECEIPT_VERSION,
        "campaign": {"id": campaign.id, "number": campaign.number, "name": campaign.name},
        "run_id": run_id,
        "written_at": now.isoformat(timespec="seconds"),
        "files": len(entries),
        "bytes": sum(entry.size for entry in entries),
    }
    text = io.BytesIO()
    text.write(json.dumps(document, ensure_ascii=False, indent=1).removesuffix("\n}").encode())
    text.write(b',\n "assets": [')
    for number, entry in enumerate(
        entries
    ):  # line by line: as one document it would need ten times its size in memory
        line = json.dumps(asdict(entry), ensure_ascii=False)
        text.write(f"{',' if number else ''}\n  {line}".encode())
    text.write(b"\n ]\n}\n")
    return text.getvalue()


def receipt_names(campaign_id: str) -> tuple[str, str]:
    """The receipt's name, and the name it gets when an asset or a folder already has that name."""
    return RECEIPT_NAME, distinguish(RECEIPT_NAME, campaign_id[:SHORT_ID_LENGTH])


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt in Box: of which campaign, and what it lists, by asset id."""

    file: BoxFile
    campaign_id: str
    assets: dict[str, dict[str, Any]]


def read_receipt(box: BoxClient, file: BoxFile) -> Receipt | None:
    """The content of a file, if it is a receipt of any campaign. An answer may be wrong, so a file that is
    not a receipt is read twice. Raises BoxError.
    """
    if file.size_bytes > SMALL_FILE_LIMIT:
        return None
    for _ in range(2):
        try:
            document = json.loads(box.read_content(file.id))
            assets = {str(entry["dam_id"]): dict(entry) for entry in document["assets"]}
            return Receipt(file, str(document["campaign"]["id"]), assets)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def find_receipt(box: BoxClient, folder: Place, campaign_id: str) -> Receipt | None:
    """The campaign's receipt in its folder. Raises BoxError."""
    for name in receipt_names(campaign_id):
        file = folder.files_by_name.get(name)
        found = read_receipt(box, file) if file else None
        if found is not None and found.campaign_id == campaign_id:
            return found
    return None


def write_receipt(
    box: BoxClient, folder: Place, campaign_id: str, content: bytes, ours: Collection[str]
) -> BoxFile:
    """Put the receipt into the campaign's folder, as a new version if there is one, and verify it.

    A file of that name that is not a receipt of the campaign is not changed. ours: the ids of its assets'
    files. Raises BoxError.
    """
    for name in receipt_names(campaign_id):
        file = _written_as(name, box, folder, campaign_id, content, ours)
        if file is not None:
            return file
    raise BoxError(
        f"no free name for the receipt in Box folder {folder.folder_id}",
        kind="name_taken",
        hint=f"rename or move {' and '.join(receipt_names(campaign_id))} there; the next run then continues",
    )


def _written_as(
    name: str, box: BoxClient, folder: Place, campaign_id: str, content: bytes, ours: Collection[str]
) -> BoxFile | None:
    """The receipt under one name; None when something that is not our receipt has the name."""
    existing = folder.files_by_name.get(name)
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    for _ in range(MOST_CONFLICTS):  # the listing may be out of date
        if existing is not None:
            earlier = None if existing.id in ours else read_receipt(box, existing)
            if earlier is None or earlier.campaign_id != campaign_id:
                return None
        replaces = existing.id if existing else None
        try:
            file = box.upload_file(folder.folder_id, name, content, sha1, replaces=replaces)
        except NameTakenError as exc:
            if exc.file_id is None:
                return None
            existing = box.read_file(exc.file_id)
        else:
            return _verified(box, name, file, (len(content), sha1))
    return None


def _verified(box: BoxClient, name: str, file: BoxFile, wanted: tuple[int, str]) -> BoxFile:
    """The file, if Box has these bytes: size and SHA-1. An answer may be wrong, so Box is asked twice."""
    if (file.size_bytes, file.sha1) == wanted:
        return file
    again = box.read_file(file.id)
    if again is not None and (again.size_bytes, again.sha1) == wanted:
        return file
    raise BoxError(
        f"the receipt {name} has SHA-1 {wanted[1]}, Box has {(again or file).sha1}",
        kind="digest_mismatch",
        retryable=True,
    )


@dataclass(frozen=True, slots=True)
class Sides:
    """What both systems and the ledger have of a campaign, for the comparison."""

    campaign_id: str
    found: MasterAssets
    folder_id: str
    ledger: Mapping[str, LedgerEntry]


def compare(dam: Source, box: BoxClient, sides: Sides, progress: Progress, *, workers: int) -> list[str]:
    """Read every asset's bytes again and compare them with Box; returns a sentence for each difference.

    Writes nothing anywhere. Raises BoxError; an error of the DAM for a single asset is a difference.
    """
    in_box = _tree(box, sides.folder_id)
    files, differences = _files_in_box(box, sides, in_box)
    there = [asset for asset in sides.found.assets if asset.id in files]
    progress.expect(there)

    def check(asset: Asset) -> str | None:
        file = files[asset.id]
        try:
            with progress.in_hand(asset, sides.campaign_id) as moving:
                sha1 = read_sha1(dam, moving, progress)
        except DamError as exc:
            return f"asset {asset.id} ({asset.name}) cannot be read: {exc}"
        if (file.size_bytes, file.sha1) == (asset.size_bytes, sha1):
            return None
        return (
            f"asset {asset.id} ({asset.name}): the DAM has {asset.size_bytes} bytes with SHA-1 {sha1},"
            f" Box {file.size_bytes} bytes with SHA-1 {file.sha1}"
        )

    with ThreadPoolExecutor(workers) as threads:
        differences += [text for text in threads.map(check, there) if text is not None]
    expected = {file.id for file in files.values()}
    by_path = {path: file for path, file in in_box.values() if file.id not in expected}
    receipt = find_receipt(box, Place(sides.folder_id, "", files_by_name=by_path), sides.campaign_id)
    differences += _receipt_differences(receipt, files)
    if receipt is not None:
        expected.add(receipt.file.id)
    return differences + _besides(sides, in_box, expected)


Tree = Mapping[str, tuple[str, BoxFile]]
"""{file id: (path, file)} of a folder in Box."""


def _files_in_box(box: BoxClient, sides: Sides, in_box: Tree) -> tuple[dict[str, BoxFile], list[str]]:
    """{asset id: file} of the assets in Box, even if people moved them; adds a sentence for each
    other one.
    """
    files: dict[str, BoxFile] = {}
    differences: list[str] = []
    for asset in sides.found.assets:
        entry = sides.ledger.get(asset.id)
        if entry is None:
            differences.append(f"asset {asset.id} ({asset.name}) was never copied")
            continue
        known = in_box.get(entry.box_file_id)
        file = known[1] if known else box.read_file(entry.box_file_id)
        if file is None:
            differences.append(f"asset {asset.id} ({asset.name}): Box file {entry.box_file_id} is gone")
        else:
            files[asset.id] = file
    return files, differences


def _besides(sides: Sides, in_box: Tree, expected: Collection[str]) -> list[str]:
    """What is in the folder and is neither an asset's file nor the receipt."""
    recorded = {entry.box_file_id for entry in sides.ledger.values()}
    return [
        f"Box also contains {path} (file {file_id}), which "
        + ("is no longer in the DAM" if file_id in recorded else "was not put there by us")
        for file_id, (path, _) in sorted(in_box.items(), key=lambda item: item[1][0])
        if file_id not in expected
    ]


def _tree(box: BoxClient, folder_id: str) -> Tree:
    """Everything below a folder."""
    found: dict[str, tuple[str, BoxFile]] = {}
    waiting = [(folder_id, "")]
    while waiting:
        current, path = waiting.pop()
        listing = box.list_folder(current)
        found |= {file.id: (f"{path}{file.name}", file) for file in listing.files}
        waiting += [(below, f"{path}{name}/") for below, name in listing.folders.items()]
    return found


def _receipt_differences(receipt: Receipt | None, files: Mapping[str, BoxFile]) -> list[str]:
    """How the receipt differs from the files in Box."""
    if receipt is None:
        return [f"the receipt {RECEIPT_NAME} is missing, or belongs to another campaign"]
    differences = []
    name, listed = receipt.file.name, dict(receipt.assets)
    for asset_id, file in sorted(files.items()):
        said = listed.pop(asset_id, None)
        if said is None:
            differences.append(f"{name} does not list asset {asset_id}")
        elif (said.get("size"), said.get("sha1"), said.get("box_id")) != (
            file.size_bytes,
            file.sha1,
            file.id,
        ):
            differences.append(f"{name} lists asset {asset_id} differently from the file in Box")
    differences += [
        f"{name} lists asset {asset_id}, which should not be there" for asset_id in sorted(listed)
    ]
    return differences

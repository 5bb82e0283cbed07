"""What one writes first: `requests`, one call per step, one file after the other, the connections kept."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import requests


def main() -> int:
    """Download, hash, upload, compare Box's SHA-1; for each file named on the command line."""
    base_url, folder_id = os.environ["FILES_URL"], os.environ["BOX_ROOT_FOLDER_ID"]
    upload_url = f"{os.environ['BOX_UPLOAD_URL']}/2.0/files/content"
    session = requests.Session()
    for name in sys.argv[1:]:
        downloaded = session.get(base_url + name, timeout=60)
        downloaded.raise_for_status()
        sha1 = hashlib.sha1(downloaded.content).hexdigest()
        attributes = json.dumps({"name": name, "parent": {"id": folder_id}})
        uploaded = session.post(
            upload_url,
            headers={"Authorization": "Bearer bench", "content-md5": sha1},
            files={"attributes": (None, attributes), "file": (name, downloaded.content)},
            timeout=60,
        )
        uploaded.raise_for_status()
        if uploaded.json()["entries"][0]["sha1"] != sha1:
            raise SystemExit(f"{name}: Box has another SHA-1")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Box's own SDK as its documentation shows it: a stream from the DAM into `upload_big_file`."""

from __future__ import annotations

import io
import os
import sys
from typing import cast

import requests
from box_sdk_gen import BoxCCGAuth, BoxClient, CCGConfig
from box_sdk_gen.networking.base_urls import BaseUrls
from box_sdk_gen.networking.network import NetworkSession


def main() -> int:
    """Move each file named on the command line; the SDK itself asserts that Box got all parts."""
    base_url, folder_id = os.environ["FILES_URL"], os.environ["BOX_ROOT_FOLDER_ID"]
    urls = BaseUrls(base_url=os.environ["BOX_API_URL"], upload_url=os.environ["BOX_UPLOAD_URL"])
    auth = BoxCCGAuth(CCGConfig(client_id="bench", client_secret="bench", enterprise_id="1"))
    client = BoxClient(auth, network_session=NetworkSession(base_urls=urls))
    session = requests.Session()
    for name in sys.argv[1:]:
        with session.get(base_url + name, stream=True, timeout=60) as answer:
            answer.raise_for_status()
            # urllib3 fills whole parts, which spares the SDK its quadratic joining of short reads.
            stream = cast("io.BufferedIOBase", answer.raw)
            size = int(answer.headers["Content-Length"])
            client.chunked_uploads.upload_big_file(stream, name, size, folder_id)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

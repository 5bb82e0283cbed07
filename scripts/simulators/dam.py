"""A stand-in for OpenText Media Management that speaks its REST API v6 over real sockets.

Faithful enough for OpenText's own client (pyxecm otmm.py) and ours; MARKDOWN_DOCS/DAM_AND_BOX.md marks
what public sources confirm. In tests:

    with DamSimulator() as sim:
        campaign_id = sim.add_campaign("Spring", "C-1001")
        sim.add_asset(sim.master_assets_folder(campaign_id), "hero.jpg", b"...")

By hand: `python scripts/simulators/dam.py --port 8081 --demo-data`, then `/_sim/...` on the same port to look
and stir.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and __package__ in {None, ""}:
    # Run by its path. Start again as a module, so that scripts/ is the import root as everywhere else.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "simulators.dam", *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606 -- this very program

import argparse
import base64
import shlex
import signal
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from simulators.dam_http import (
    CONTROL_ROOT,
    DamServer,
    Drop,
    Fault,
    FaultBook,
    Request,
    Response,
    json_response,
)
from simulators.dam_rest import DamRest, Sessions
from simulators.dam_shapes import API_ROOT
from simulators.dam_store import (
    NUMBER_FIELD,
    STATUS_FIELD,
    Content,
    DamStore,
    GeneratedContent,
    Item,
    Options,
    UnknownItemError,
)

__all__ = ["DamSimulator", "Fault", "GeneratedContent", "Options", "Request"]

MASTER_ASSETS = "Master Assets"
ACCEPT_POLL_SECONDS = 0.05


class DamSimulator:
    """The world, the switches and the server in one. Any thread may call any method, running or not."""

    STATUS_FIELD = STATUS_FIELD
    NUMBER_FIELD = NUMBER_FIELD

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        ssl_context: ssl.SSLContext | None = None,
        require_client_certificate: bool = False,
        *,
        client_id: str = "otmm-client",
        client_secret: str = "otmm-secret",  # noqa: S107 - the stand-in's account, secret to nobody
        username: str = "svc_a1a2",
        password: str = "dam-password",  # noqa: S107 - likewise
        token_lifetime: float | None = None,
    ) -> None:
        """Port 0 takes a free one and keeps it over stop() and start(). `token_lifetime` is in seconds.

        The TLS handshake asks for a client certificate, as a proxy in front of OTMM would: the context must
        then know the CA.
        """
        if require_client_certificate:
            if ssl_context is None:
                raise ValueError("require_client_certificate needs an ssl_context")
            ssl_context.verify_mode = ssl.CERT_REQUIRED
        self.client_id = client_id
        self.client_secret = client_secret
        self.username = username
        self.password = password
        self.token_lifetime = token_lifetime
        self.options = Options()
        self.faults = FaultBook()
        self.stopping = threading.Event()
        self._host = host
        self._port = port
        self._tls = ssl_context
        self._store = DamStore(self.options)
        self._sessions = Sessions(self)
        self._rest = DamRest(self._store, self._sessions)
        self._log: list[Request] = []
        self._server: DamServer | None = None
        self._thread: threading.Thread | None = None
        self.root_id = self._store.new_item(None, "Campaigns", is_folder=True).id

    # --- server ---

    def start(self) -> Self:
        """Listens. Raises OSError when the port is taken."""
        self.stopping.clear()
        self._server = DamServer((self._host, self._port), self, self._tls)
        self._port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(ACCEPT_POLL_SECONDS,), name="dam-simulator", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends every connection; the world stays, so that start() brings the same DAM back."""
        if self._server is None or self._thread is None:
            return
        self.stopping.set()
        self._server.close()
        self._thread.join()
        self._server = self._thread = None

    def restart(self, ssl_context: ssl.SSLContext) -> None:
        """Come back at the same port with another certificate, or another wish for the client's."""
        self.stop()
        self._tls = ssl_context
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The part before /otmmapi/v6, without a slash at the end."""
        if self._port == 0:
            raise RuntimeError("the simulator has not been started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self._port}"

    def answer(self, request: Request) -> Response:
        """The DAM's answer (called by the server)."""
        return self._rest.answer(request)

    # --- world ---

    def add_campaign(
        self,
        name: str,
        number: str,
        status: str | None = "A1",
        master_assets: bool | str = True,
        *,
        campaign_id: str | None = None,
        parent_id: str | None = None,
    ) -> str:
        """A campaign folder below the root or `parent_id`, with an empty sub-folder for its assets.

        `master_assets`: True for "Master Assets", a text for a folder of that name, False for none.
        """
        with self._store.guard:
            item = self._store.new_item(parent_id or self.root_id, name, is_folder=True, item_id=campaign_id)
            item.is_campaign = True
            item.fields = {STATUS_FIELD: status, NUMBER_FIELD: number}
            item.indexed = dict(item.fields)
            if master_assets:
                folder = MASTER_ASSETS if master_assets is True else master_assets
                item.master_assets_id = self.add_folder(item.id, folder)
            return item.id

    def add_folder(self, parent_id: str, name: str) -> str:
        """A plain folder."""
        return self._store.new_item(parent_id, name, is_folder=True).id

    def add_asset(
        self,
        folder_id: str,
        name: str,
        content: Content,
        *,
        deleted: bool = False,
        expired: bool = False,
        mime_type: str | None = None,
        declared_size: int | None = None,
        checksum: str | None = None,
        asset_id: str | None = None,
    ) -> str:
        """An asset. `declared_size` and `checksum` (MD5): what the DAM claims where that is not the truth."""
        with self._store.guard:
            item = self._store.new_asset(folder_id, name, content, mime_type, asset_id)
            item.deleted = deleted
            item.expired = expired
            item.declared_size = declared_size
            item.declared_checksum = checksum
            return item.id

    def replace_content(self, asset_id: str, content: Content) -> None:
        """Check in a new version of an asset."""
        self._store.replace_content(asset_id, content)

    def link(self, folder_id: str, child_id: str) -> None:
        """Put an item into one more folder."""
        self._store.link(folder_id, child_id)

    def remove(self, item_id: str) -> None:
        """Take an item away, with whatever sits nowhere else."""
        self._store.remove(item_id)

    def rename(self, item_id: str, name: str) -> None:
        """Give an item another name."""
        with self._store.guard:
            self._store.item(item_id).name = name

    def set_status(self, campaign_id: str, code: str | None) -> None:
        """Set the status as a campaign manager would; None empties the field."""
        self._store.set_field(campaign_id, STATUS_FIELD, code)

    def status(self, campaign_id: str) -> str:
        """The true status, whatever the index says; "" when empty."""
        return self._store.item(campaign_id).fields.get(STATUS_FIELD) or ""

    def set_field(self, item_id: str, field_id: str, value: str | None) -> None:
        """Set any scalar field, making it known to the metadata model."""
        self._store.set_field(item_id, field_id, value)

    def set_table_values(self, item_id: str, field_id: str, values: Sequence[str]) -> None:
        """Set a tabular field, named by table or column, to these codes."""
        self._store.set_table(item_id, field_id, list(values))

    def add_lookup_domain(self, domain_id: str, values: Mapping[str, str]) -> None:
        """A lookup domain: code -> text shown."""
        with self._store.guard:
            self._store.lookup_domains[domain_id] = dict(values)

    def set_status_label(self, code: str, label: str) -> None:
        """The text shown for a status while options.status_is_lookup (else "Status <code>")."""
        with self._store.guard:
            self._store.status_labels[code] = label

    def master_assets_folder(self, campaign_id: str) -> str | None:
        """The folder made with the campaign, else the first one named "Master Assets"."""
        with self._store.guard:
            campaign = self._store.item(campaign_id)
            if campaign.master_assets_id in campaign.children:
                return campaign.master_assets_id
            named = (
                item.id
                for item in self._store.children(campaign_id)
                if item.name == MASTER_ASSETS and item.is_folder
            )
            return next(named, None)

    def reindex(self) -> None:
        """Let search see the world as it is (see options.index_lag)."""
        self._store.reindex()

    def lock_state(self, item_id: str) -> str | None:
        """Login name of the user who has locked the item."""
        return self._store.item(item_id).locked_by

    def lock(self, item_id: str, by: str = "somebody") -> None:
        """Lock in another's name, taking the lock over if need be."""
        with self._store.guard:
            self._store.item(item_id).locked_by = None
            self._store.lock(item_id, by)

    def unlock(self, item_id: str) -> None:
        """Release the lock, also another user's."""
        with self._store.guard:
            self._store.item(item_id).locked_by = None

    # --- log-ins, log, faults ---

    def issue_token(self, login: str) -> str:
        """A token as another host would grant it that the DAM trusts."""
        return self._sessions.issue(login, is_session=False).secret

    def expire_tokens(self) -> None:
        """Every token and session so far is answered 401."""
        self._sessions.expire_all()

    def log(self, request: Request) -> None:
        """Remember a request (called by the server)."""
        with self._store.guard:
            self._log.append(request)

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order of arrival, spoilt ones too; those of /_sim/ are not among them."""
        with self._store.guard:
            return list(self._log)

    def calls(self, method: str | None = None, path_prefix: str | None = None) -> list[Request]:
        """The requests of a method, below a path; the path may leave out /otmmapi/v6."""
        prefixes = None if path_prefix is None else (path_prefix, API_ROOT + path_prefix)
        return [
            request
            for request in self.requests
            if method in (None, request.method) and (prefixes is None or request.path.startswith(prefixes))
        ]

    def clear_requests(self) -> None:
        """Forget them."""
        with self._store.guard:
            self._log.clear()

    def fail(
        self,
        match: str,
        *,
        status: int | None = None,
        times: int | None = None,
        body: Any = None,
        html: bool = False,
        drop: Drop | None = None,
        delay: float | None = None,
        truncate: int | None = None,
        retry_after: int | None = None,
        skip: int = 0,
    ) -> Fault:
        """Spoil requests whose `METHOD /path?query` holds the regular expression.

        status, body, html, retry_after: this answer instead of the DAM's (html: 502 unless said otherwise;
        body: text, bytes or JSON, default the exception_body). drop: close without an answer, before or after
        the effect. delay: so many seconds first. truncate: only so many bytes of the body, Content-Length
        whole. skip: let so many through first. times: spoil so many, None without end. The first fault added
        that matches wins.
        """
        fault = Fault(match, status, times, body, html, drop, delay, truncate, retry_after, skip)
        return self.faults.add(fault)

    def clear_faults(self) -> None:
        """No fault is left."""
        self.faults.clear()

    # --- control surface ---

    def control(self, request: Request) -> Response:
        """`/_sim/...`: the same by hand. Without log-in, from this machine only."""
        if not ip_address(request.client_host.partition("%")[0]).is_loopback:
            return json_response({"error": "loopback only"}, 403)
        name = request.path.removeprefix(CONTROL_ROOT).strip("/")
        action = self._controls().get((request.method, name))
        if action is None:
            return json_response(
                {"error": "unknown", "known": [" ".join(key) for key in self._controls()]}, 404
            )
        given = request.json if isinstance(request.json, dict) else {}
        try:
            return json_response(action(given), 201 if request.method == "POST" else 200)
        except KeyError as exc:
            return json_response({"error": f"missing: {exc.args[0]}"}, 400)
        except UnknownItemError as exc:
            return json_response({"error": f"no such item: {exc.args[0]}"}, 404)
        except (TypeError, ValueError) as exc:
            return json_response({"error": str(exc)}, 400)

    def _controls(self) -> dict[tuple[str, str], Callable[[dict[str, Any]], object]]:
        return {
            ("GET", "campaigns"): lambda _: [self._campaign_row(item) for item in self._campaigns()],
            ("POST", "campaigns"): self._post_campaign,
            ("POST", "assets"): self._post_asset,
            ("POST", "status"): self._post_status,
            ("GET", "requests"): lambda _: [
                asdict(request) | {"headers": dict(request.headers)} for request in self.requests
            ],
            ("DELETE", "requests"): lambda _: self.clear_requests(),
            ("POST", "faults"): lambda given: asdict(self.fail(given.pop("match"), **given)),
            ("DELETE", "faults"): lambda _: self.clear_faults(),
        }

    def _campaigns(self) -> list[Item]:
        with self._store.guard:
            return [item for item in self._store.items.values() if item.is_campaign]

    def _campaign_row(self, item: Item) -> dict[str, object]:
        folder_id = self.master_assets_folder(item.id)
        below = self._store.descendants(folder_id) if folder_id else iter(())
        return {
            "id": item.id,
            "number": item.fields.get(NUMBER_FIELD),
            "name": item.name,
            "status": item.fields.get(STATUS_FIELD),
            "assets": sum(not (found.is_folder or found.deleted or found.expired) for found in below),
            "lock": item.locked_by,
        }

    def _post_campaign(self, given: dict[str, Any]) -> object:
        identity = self.add_campaign(
            str(given["name"]),
            str(given["number"]),
            given.get("status", "A1"),
            given.get("master_assets", True),
        )
        return self._campaign_row(self._store.item(identity))

    def _post_asset(self, given: dict[str, Any]) -> object:
        folder_id = given.get("folder_id") or self._assets_folder_made(self._named_campaign(given))
        asset_id = self.add_asset(str(folder_id), str(given["name"]), _given_content(given))
        return {"id": asset_id, "folder_id": folder_id}

    def _assets_folder_made(self, campaign_id: str) -> str:
        return self.master_assets_folder(campaign_id) or self.add_folder(campaign_id, MASTER_ASSETS)

    def _post_status(self, given: dict[str, Any]) -> object:
        identity = self._named_campaign(given)
        self.set_status(identity, given["status"])
        return self._campaign_row(self._store.item(identity))

    def _named_campaign(self, given: dict[str, Any]) -> str:
        """A campaign's id: given by `campaign_id`, or found by `number` (the latest of several)."""
        if "number" not in given:
            return str(given["campaign_id"])
        number = str(given["number"])
        found = [item.id for item in self._campaigns() if item.fields.get(NUMBER_FIELD) == number]
        if not found:
            raise UnknownItemError(number)
        return found[-1]


def _given_content(given: dict[str, Any]) -> Content:
    if "size" in given:
        return GeneratedContent(int(given["size"]), int(given.get("seed", 1)))
    if "base64" in given:
        return base64.b64decode(given["base64"], validate=True)
    return str(given.get("text", "")).encode()


def add_demo_data(sim: DamSimulator) -> None:
    """A few campaigns in each state a person may want to see."""
    ready = sim.add_campaign("Spring Launch", "C-1001")
    folder = sim.master_assets_folder(ready) or ready
    sim.add_asset(folder, "key-visual.jpg", GeneratedContent(2_500_000, seed=1))
    sim.add_asset(folder, "copy deck.txt", b"Spring is here.\n")
    sim.add_asset(sim.add_folder(folder, "Video"), "spot-30s.mp4", GeneratedContent(30_000_000, seed=2))
    sim.add_campaign("Summer Teaser (empty folder)", "C-1002")
    sim.add_campaign("Autumn Outlet (no folder)", "C-1003", master_assets=False)
    sim.add_campaign("Winter Gala (A10 is not A1)", "C-1004", status="A10")
    sim.add_campaign("Last Year (done)", "C-1005", status="A2")


def environment(sim: DamSimulator) -> dict[str, str]:
    """The variables that point the product at this simulator."""
    return {
        "DAM_BASE_URL": sim.url,
        "DAM_AUTH": "password",
        "DAM_CLIENT_ID": sim.client_id,
        "DAM_CLIENT_SECRET": sim.client_secret,
        "DAM_USERNAME": sim.username,
        "DAM_PASSWORD": sim.password,
        "DAM_CAMPAIGNS_FOLDER_ID": sim.root_id,
        "DAM_STATUS_FIELD_ID": STATUS_FIELD,
        "DAM_NUMBER_FIELD_ID": NUMBER_FIELD,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until SIGINT or SIGTERM; 2 when the address is not available."""
    parser = argparse.ArgumentParser(description="OTMM simulator", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8081, help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--demo-data", action="store_true", help="start with a few campaigns")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sim = DamSimulator(port=arguments.port, host=arguments.host)
    if arguments.demo_data:
        add_demo_data(sim)
    try:
        sim.start()
    except (OSError, OverflowError) as exc:
        sys.stderr.write(f"dam simulator: cannot listen on {arguments.host}:{arguments.port}: {exc}\n")
        return 2
    lines = [f"{name}={shlex.quote(value)}" for name, value in environment(sim).items()]
    about = [
        f"# DAM simulator on {sim.url} (control: {sim.url}{CONTROL_ROOT}/campaigns), Ctrl-C ends it",
        f"# campaigns root {sim.root_id}, status field {STATUS_FIELD!r}, number field {NUMBER_FIELD!r}",
    ]
    sys.stdout.write("\n".join([*about, *lines]) + "\n")
    sys.stdout.flush()
    stop.wait()
    sim.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

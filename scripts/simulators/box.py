"""A stand-in for Box that speaks Box's own protocol: for the tests, the demo, and by hand.

One port serves the API (`/2.0`), the token endpoint (`/oauth2/token`) and uploads (`/api/2.0`, and `/2.0` for
the upload paths). Box's own SDK and rclone work against it. By hand:

    python scripts/simulators/box.py --port 8082 --content-dir /tmp/box

Facts: "Box OpenAPI", "Box guide ..." and MARKDOWN_DOCS/DAM_AND_BOX.md, named where they are used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__" and __package__ in {None, ""}:
    # Run by its path. Start again as a module, so that scripts/ is the import root as everywhere else.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "simulators.box", *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606 -- this very program

import argparse
import json
import logging
import re
import signal
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal

from simulators.box_api import DOWNLOAD_PREFIX, Api, error_answer
from simulators.box_gate import (
    DEFAULT_CODES,
    TOKEN_PATH,
    Access,
    Accounts,
    Drop,
    Fault,
    Faults,
    RateLimits,
    oauth_error,
    read_form,
)
from simulators.box_store import ROOT_ID, File, Folder, Kind, Options, RefusedError, Store
from simulators.box_uploads import OpenSession, Uploads, content_of
from simulators.box_wire import Answer, Call, Server, TruncatedBodyError

logger = logging.getLogger(__name__)

CONTROL_PREFIX = "/_sim/"
STORING = re.compile(r"POST \S*/files(/\d+)?/content|PUT \S*/upload_sessions/")


@dataclass(frozen=True)
class BoxFile:
    """A file as a test sees it. `path` is '/'-joined from the root, without the root. `created_by` is the id
    of the user who made it, "" for a test's own.
    """

    id: str
    name: str
    path: str
    parent_id: str
    size: int
    sha1: str
    etag: str
    versions: int
    created_by: str


@dataclass(frozen=True)
class BoxFolder:
    """A folder as a test sees it."""

    id: str
    name: str
    path: str
    parent_id: str


@dataclass
class Request:
    """One request received. `status` is 0 while it is open, and when it was dropped.

    Header names are in lower case, `path` is as sent, `query` has its parameters, `body_bytes` is what came
    of the body.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int
    at: datetime
    body_bytes: int = 0


class BoxSimulator:
    """Box on a port of this machine: a context manager, or start() and stop(). Every method is thread-safe.

    `url` goes into BOX_API_URL and `upload_url` into BOX_UPLOAD_URL; `options` may be changed at any time.
    Between stop() and start() the world stays as it is and the port is kept.
    """

    root_id = ROOT_ID

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        ssl_context: ssl.SSLContext | None = None,
        *,
        client_id: str = "box-client",
        client_secret: str = "box-secret",  # noqa: S107 -- the simulator's own
        enterprise_id: str = "900001",
        token_lifetime: float = 3600,
        options: Options | None = None,
    ) -> None:
        self.options = options or Options()
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._accounts = Accounts(client_id, client_secret, enterprise_id, token_lifetime=token_lifetime)
        self._store = Store(self.options)
        self._uploads = Uploads(self.options)
        self._api = Api(self.options, self._store, self._uploads, self._accounts)
        self._faults = Faults()
        self._limits = RateLimits(self.options)
        self._requests: list[Request] = []
        self._requests_lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    # --- running

    def start(self) -> BoxSimulator:
        """Listen. A port of 0 is replaced by a free one."""
        self._stopping.clear()
        self._server = Server(self._host, self._port, self._answer, self._ssl_context)
        self._port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve, name="box", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and end the open connections."""
        self._stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.stop(self._thread)
        self._server = self._thread = None

    def __enter__(self) -> BoxSimulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._uploads.close()

    @property
    def url(self) -> str:
        """`http://HOST:PORT`."""
        return f"{'http' if self._ssl_context is None else 'https'}://{self._host}:{self._port}"

    @property
    def upload_url(self) -> str:
        """The upload host, as Box's SDK wants it: with `/api`."""
        return f"{self.url}/api"

    # --- accounts

    @property
    def client_id(self) -> str:
        """The application's client id."""
        return self._accounts.client_id

    @property
    def client_secret(self) -> str:
        """The application's secret."""
        return self._accounts.client_secret

    @property
    def enterprise_id(self) -> str:
        """The enterprise whose service account the application is."""
        return self._accounts.enterprise_id

    @property
    def user_id(self) -> str:
        """The service account's user id."""
        return self._accounts.user_id

    def add_user(self, access: Access = "editor") -> str:
        """A user that the application may act for, with this right everywhere; its id."""
        return self._accounts.add_user(access)

    def set_access(self, user_id: str, access: Access) -> None:
        """Change what such a user may do."""
        self._accounts.set_access(user_id, access)

    @property
    def token_lifetime(self) -> float:
        """How long a token lives from its grant, in seconds."""
        return self._accounts.token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._accounts.token_lifetime = seconds

    def expire_tokens(self) -> None:
        """Make every token granted so far worthless."""
        self._accounts.expire_tokens()

    def jwt_config(self) -> dict[str, Any]:
        """The JSON that Box's developer console hands out for JWT: boxAppSettings, enterpriseID."""
        return self._accounts.jwt_config()

    # --- world

    def add_folder(self, parent_id: str, name: str) -> str:
        """Make a folder; its id."""
        return self._store.create_folder(parent_id, name).id

    def add_file(self, parent_id: str, name: str, content: bytes) -> str:
        """Make a file; its id."""
        return self._store.create_file(parent_id, name, content_of(content, self.options)).id

    def delete(self, item_id: str, kind: Kind) -> None:
        """Delete a file, or a folder with all that is in it."""
        with self._store.lock:
            self._store.delete(self._store.item(kind, item_id))

    def rename(self, kind: Kind, item_id: str, name: str) -> None:
        """Give an item another name."""
        with self._store.lock:
            self._store.change(self._store.item(kind, item_id), name=name)

    def move(self, kind: Kind, item_id: str, parent_id: str) -> None:
        """Put an item into another folder."""
        with self._store.lock:
            self._store.change(self._store.item(kind, item_id), parent_id=parent_id)

    def files(self) -> list[BoxFile]:
        """Every file, by path."""
        with self._store.lock:
            shown = [
                BoxFile(
                    file.id,
                    file.name,
                    self._store.path(file),
                    str(file.parent_id),
                    file.content.size,
                    file.content.sha1,
                    str(file.etag),
                    file.versions,
                    file.created_by,
                )
                for file in self._store.files()
            ]
        return sorted(shown, key=lambda file: file.path)

    def folders(self) -> list[BoxFolder]:
        """Every folder but the root, by path."""
        with self._store.lock:
            shown = [
                BoxFolder(folder.id, folder.name, self._store.path(folder), str(folder.parent_id))
                for folder in self._store.folders()
            ]
        return sorted(shown, key=lambda folder: folder.path)

    def content(self, file_id: str) -> bytes:
        """A file's bytes; LookupError when they were not kept (see Options)."""
        with self._store.lock:
            content = self._store.file(file_id).content
            if content.kept is not None:
                return content.kept
            if content.path is not None:
                return content.path.read_bytes()
        raise LookupError(f"the bytes of file {file_id} ({content.size} bytes) were not kept")

    def tree(self) -> str:
        """The folders and files as an indented tree, with sizes and the first 8 digits of each SHA-1."""
        with self._store.lock:
            root = self._store.folder(ROOT_ID)
            return "\n".join([f"{root.name}/", *self._branches(root, "  ")]) + "\n"

    def _branches(self, folder: Folder, indent: str) -> Iterator[str]:
        children = sorted(self._store.children(folder), key=lambda item: (item.kind == "file", item.name))
        for item in children:
            if isinstance(item, Folder):
                yield f"{indent}{item.name}/"
                yield from self._branches(item, indent + "  ")
            elif isinstance(item, File):
                yield f"{indent}{item.name}  {item.content.size:,} bytes  {item.content.sha1[:8]}"

    def expire_sessions(self) -> None:
        """Let every open upload session reach its end now."""
        self._uploads.expire()

    def open_sessions(self) -> list[OpenSession]:
        """The upload sessions neither committed nor aborted, expired ones among them."""
        return self._uploads.open()

    # --- what was asked

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order of arrival, those to `/_sim/` left out."""
        with self._requests_lock:
            return list(self._requests)

    def calls(self, method: str | None = None, path_prefix: str | None = None) -> list[Request]:
        """The requests of one method, or whose path begins so."""
        return [
            request
            for request in self.requests
            if (method is None or request.method == method.upper())
            and (path_prefix is None or request.path.startswith(path_prefix))
        ]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        with self._requests_lock:
            self._requests.clear()

    # --- what goes wrong

    def fail(
        self,
        match: str,
        *,
        status: int | None = None,
        code: str | None = None,
        times: int | None = None,
        skip: int = 0,
        retry_after: int | str | None = None,
        drop: Drop | None = None,
        delay: float | None = None,
        body: str | bytes | dict[str, Any] | None = None,
        effect: bool = False,
        truncate: int | None = None,
    ) -> Fault:
        """Make requests go wrong whose `METHOD /path?query` the expression finds; the first fault wins.

        status, code, body: answer this instead (a dict goes out as JSON, anything else as an HTML page);
        without a body, in the error shape of the path. `effect`: the request takes effect all the same.
        retry_after: seconds, or a header value to be sent as it is. times, skip: how many to meet, after how
        many. drop: close the connection "before" the effect or "after" it, without an answer. delay: wait so
        many seconds first; alone, the request then goes on as usual. truncate: only so many bytes of the
        answer's body, Content-Length whole.
        """
        return self._faults.add(
            Fault(
                re.compile(match),
                status=status if status is not None or code is None else 400,
                code=code,
                times=times,
                skip=skip,
                retry_after=retry_after,
                drop=drop,
                delay=delay,
                body=_to_bytes(body),
                body_type="application/json" if isinstance(body, dict) else "text/html; charset=utf-8",
                effect=effect,
                truncate=truncate,
            )
        )

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self._faults.clear()

    # --- answering

    def _answer(self, call: Call) -> Answer | None:
        """The way of every request: recorded, met by a fault or not, answered, its body read to the end."""
        if call.path.startswith(CONTROL_PREFIX):
            return self._control(call)
        with self._recorded(call) as record:
            try:
                answer = self._answer_or_fail(call)
            except RefusedError as exc:
                answer = error_answer(exc)
            except (TruncatedBodyError, ConnectionError):
                return None
            except Exception:
                logger.exception("the Box simulator failed at %s", call.target)
                answer = error_answer(RefusedError(500, "internal_server_error", "a fault of the simulator"))
                answer.close = True
            if answer is not None:
                call.body.drain(call.buffer)
                record.status = answer.status
            return answer

    @contextmanager
    def _recorded(self, call: Call) -> Iterator[Request]:
        """Keep a record of the call, complete before its answer goes out."""
        record = Request(call.method, call.path, call.query, call.headers, 0, datetime.now(UTC))
        with self._requests_lock:
            self._requests.append(record)
        try:
            yield record
        finally:
            record.body_bytes = call.body.received

    def _answer_or_fail(self, call: Call) -> Answer | None:
        fault = self._faults.take(call.target)
        if fault is None:
            return self._answer_truly(call)
        if fault.delay is not None:
            self._stopping.wait(fault.delay)
        if fault.drop == "before":
            self._note_assertion(call)
            return None
        if fault.drop == "after":
            self._answer_truly(call)
            call.body.drain(call.buffer)
            return None
        if fault.truncate is not None:
            return replace(self._answer_truly(call), cut=fault.truncate)
        if not fault.answers:
            return self._answer_truly(call)
        if fault.effect:
            self._answer_truly(call)
        else:
            self._note_assertion(call)
        return _fault_answer(fault, call)

    def _note_assertion(self, call: Call) -> None:
        """Live Box counts an assertion's jti as used even when it answers 429 to it."""
        if call.path == TOKEN_PATH:
            self._accounts.burn(read_form(call))

    def _answer_truly(self, call: Call) -> Answer:
        if call.path == TOKEN_PATH:
            if call.method != "POST":
                raise RefusedError(405, "method_not_allowed", "Method Not Allowed")
            return self._accounts.grant(read_form(call))
        if call.path.startswith(DOWNLOAD_PREFIX):
            return self._api.download(call)
        self._accounts.check_bearer(call)
        call.user_id = self._accounts.user_of(call, may_act=self.options.may_act_as_users)
        self._limits.check(call)
        self._accounts.check_access(call)
        if self.options.upload_delay and STORING.search(call.target):
            self._stopping.wait(self.options.upload_delay)
        return self._api.answer(call)

    # --- control

    def _control(self, call: Call) -> Answer:
        """The surface for people and other processes under `/_sim/`; it needs no token."""
        match (call.method, call.path.removeprefix(CONTROL_PREFIX).strip("/")):
            case ("GET", "tree"):
                return Answer(200, self.tree().encode(), {"Content-Type": "text/plain; charset=utf-8"})
            case ("GET", "files"):
                return Answer.of_json(200, [asdict(file) for file in self.files()])
            case ("GET", "requests"):
                return Answer.of_json(200, [_shown_request(request) for request in self.requests])
            case ("POST", "faults"):
                try:
                    fault = self.fail(**call.json())
                except (RefusedError, TypeError, re.error) as exc:
                    return Answer.of_json(400, {"error": str(exc)})
                return Answer.of_json(201, {"match": fault.match.pattern, "hits": fault.hits})
            case ("DELETE", "faults"):
                self.clear_faults()
                return Answer(204)
        call.body.drain(call.buffer)
        return Answer.of_json(404, {"error": "no such control"})


def _shown_request(request: Request) -> dict[str, Any]:
    """A request for the control surface, without its token."""
    headers = dict(request.headers)
    if "authorization" in headers:
        headers["authorization"] = headers["authorization"].partition(" ")[0] + " ..."
    return asdict(request) | {"headers": headers, "at": request.at.isoformat()}


def _to_bytes(body: str | bytes | dict[str, Any] | None) -> bytes | None:
    if isinstance(body, dict):
        return json.dumps(body).encode()
    return body.encode() if isinstance(body, str) else body


def _fault_answer(fault: Fault, call: Call) -> Answer:
    """What a fault answers: its own body, or an error in the shape of the path."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    status = HTTPStatus.OK if fault.status is None else fault.status
    if fault.body is not None:
        return Answer(status, fault.body, headers | {"Content-Type": fault.body_type})
    code = fault.code or DEFAULT_CODES.get(status, "error")
    if call.path == TOKEN_PATH:
        answer = oauth_error(code, "a fault asked for by a test", status)
        answer.headers |= headers
        return answer
    if status in {HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT}:
        return Answer(status, headers=headers)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="Service", error="invalid_token"'
    return error_answer(RefusedError(status, code, "a fault asked for by a test", headers=headers))


# --- by hand


def environment(simulator: BoxSimulator, jwt_config: Path | None = None) -> dict[str, str]:
    """The BOX_ variables that point the product at a simulator."""
    variables = {
        "BOX_API_URL": simulator.url,
        "BOX_UPLOAD_URL": simulator.upload_url,
        "BOX_ROOT_FOLDER_ID": simulator.root_id,
    }
    if jwt_config is not None:
        return variables | {"BOX_JWT_CONFIG": str(jwt_config)}
    return variables | {
        "BOX_CLIENT_ID": simulator.client_id,
        "BOX_CLIENT_SECRET": simulator.client_secret,
        "BOX_ENTERPRISE_ID": simulator.enterprise_id,
    }


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def main(argv: Sequence[str] | None = None) -> Literal[0]:
    """Run a simulator until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="box.py", description="A stand-in for Box.", epilog="Control: GET /_sim/tree, /_sim/files, "
        "/_sim/requests; POST and DELETE /_sim/faults.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8082, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--content-dir", type=Path, help="mirror the files' bytes into this folder")
    parser.add_argument("--jwt-config-out", type=Path, help="write the JWT configuration to this file")
    arguments = parser.parse_args(argv)
    options = Options(content_dir=arguments.content_dir)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with BoxSimulator(arguments.port, arguments.host, options=options) as simulator:
        lines = [f"Box simulator at {simulator.url} (tree: {simulator.url}/_sim/tree)"]
        if arguments.jwt_config_out is not None:
            out = arguments.jwt_config_out.resolve()
            _write_private(out, json.dumps(simulator.jwt_config(), indent=2))
            lines.append("With JWT:")
            lines += [f"{name}={value}" for name, value in environment(simulator, out).items()]
            lines.append("Or with client credentials:")
        lines += [f"{name}={value}" for name, value in environment(simulator).items()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A Box that keeps no bytes: quick enough not to be what a measurement measures.

It speaks what the uploader, Box's SDK and rclone ask of Box, counts what it was asked, and forgets the
content. What comes in parts is compared with the original as it comes, byte by byte, which costs a fraction
of hashing it twice; the digests of part and file are then the original's. A file that comes in one request is
hashed. Nothing else is checked: whether a client obeys Box's protocol is what simulators/box.py is for.

Run as a process of its own: `python -m bench.box_sink`, see BoxSink for the caller's side. Two ports: one for
plain HTTP and one for TLS. On the plain one, CONNECT to whatever host ends here as well, in TLS: so a client
whose addresses of Box are fixed (rclone) gets here through `HTTPS_PROXY` without a relay in between.

A delay stands for the round trip: each answer is held back by it once the request has been read to the end,
and a new connection costs one more (TCP), two with TLS. There is no bandwidth limit, no slow start, no loss.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import hashlib
import itertools
import json
import mmap
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote

from bench.wire import Answer, ClosedError, Request, Wire
from simulators.box_gate import RateLimits
from simulators.box_store import Options, RefusedError
from simulators.box_wire import Call

BLOCK_BYTES = 256 * 1024
"""What is received at a time and compared while it is in the processor's cache."""
ROOT_ID = "0"
RECEIPT_NAME = "_manifest.json"
"""The uploader's own file, which is none of those that were to be moved."""
STAMP = "2026-01-01T00:00:00+00:00"
Json = dict[str, Any]
Item = TypeVar("Item")


@dataclass
class Behaviour:
    """How the stand-in is to behave in one run."""

    delay_s: float = 0.0
    upload_s: float = 0.0
    uploads_per_minute: int | None = None
    calls_per_minute: int | None = None
    part_size: int = 8 * 1024 * 1024


@dataclass(slots=True)
class Folder:
    """A folder and what it holds, by the name that must be unique."""

    id: str
    name: str
    parent: Folder | None
    children: dict[str, Folder | File] = field(default_factory=dict)


@dataclass(slots=True)
class File:
    """What is remembered of a file."""

    id: str
    name: str
    parent: Folder
    size: int
    sha1: str


class RefusalError(Exception):
    """An error in Box's words."""

    def __init__(self, status: int, code: str, *, conflict: object = None) -> None:
        super().__init__(code)
        content: Json = {"type": "error", "status": status, "code": code, "message": code}
        if conflict is not None:
            content["context_info"] = {"conflicts": conflict}
        self.answer = Answer(status, content)


class Original:
    """A file that is to arrive."""

    def __init__(self, path: Path, sha1: str) -> None:
        self.sha1 = sha1
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.size = len(self._content)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._content))
        self._memcmp = ctypes.CDLL(None).memcmp  # compares without the interpreter's lock
        self._memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._part_sha1s: dict[tuple[int, int], str] = {}

    def hash_parts(self, part_size: int) -> None:
        """Learn the digests of its parts beforehand, so that no run pays for them."""
        whole = memoryview(self._content)
        for offset in range(0, self.size, part_size):
            part = whole[offset : offset + part_size]
            if (offset, len(part)) not in self._part_sha1s:
                self._part_sha1s[offset, len(part)] = hashlib.sha1(part).hexdigest()

    def part_sha1(self, offset: int, size: int) -> str:
        """The SHA-1 of one of those parts (hex). Refuses any other piece."""
        try:
            return self._part_sha1s[offset, size]
        except KeyError:
            raise RefusalError(416, "invalid_range") from None

    def receive(self, request: Request, offset: int) -> int:
        """Take the body of a request as what belongs at the offset; say how many bytes. Refuses others."""
        block = bytearray(BLOCK_BYTES)
        view, address, at = memoryview(block), ctypes.addressof(ctypes.c_char.from_buffer(block)), 0
        while count := request.read_block(view):
            start = offset + at
            if start + count > self.size or self._memcmp(address, self._address + start, count):
                raise RefusalError(400, "not_the_original")
            at += count
        return at


@dataclass
class Session:
    """An upload session."""

    id: str
    name: str
    target: Folder | File
    size: int
    part_size: int
    original: Original
    parts: dict[int, Json] = field(default_factory=dict)

    def add(self, offset: int, size: int) -> Json:
        """Take a part that was right."""
        if offset in self.parts:
            raise RefusalError(409, "range_overlaps_existing_part")
        sha1 = self.original.part_sha1(offset, size)
        part = {"part_id": f"{offset:08X}", "offset": offset, "size": size, "sha1": sha1}
        return self.parts.setdefault(offset, part)

    def digest(self) -> str:
        """The SHA-1 of the whole file, hex. Refuses when parts are missing."""
        if sum(part["size"] for part in self.parts.values()) != self.original.size:
            raise RefusalError(400, "parts_mismatch")
        return self.original.sha1


class State:
    """Everything that `reset` clears."""

    def __init__(self, behaviour: Behaviour, originals: dict[str, Original]) -> None:
        self.behaviour = behaviour
        self.originals = originals
        self.guard = threading.Lock()
        self.numbers = itertools.count(1000)
        self.root = Folder(ROOT_ID, "All Files", None)
        self.folders = {ROOT_ID: self.root}
        self.files: dict[str, File] = {}
        self.sessions: dict[str, Session] = {}
        self.calls: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.uploaded_at: list[float] = []
        options = Options()
        options.uploads_per_minute = behaviour.uploads_per_minute
        options.calls_per_minute = behaviour.calls_per_minute
        self.limits = RateLimits(options)

    def add_folder(self, parent: Folder, name: str) -> Folder:
        """A new folder; refuses a name in use with the one that has it (Box sends an array here)."""
        with self.guard:
            taken = parent.children.get(name.casefold())
            if taken is not None:
                raise RefusalError(409, "item_name_in_use", conflict=[show(taken)])
            folder = Folder(str(next(self.numbers)), name, parent)
            parent.children[name.casefold()] = self.folders[folder.id] = folder
            return folder

    def add_file(self, target: Folder | File, name: str, size: int, sha1: str) -> File:
        """A new file in a folder, or a file's new version."""
        with self.guard:
            if isinstance(target, File):
                target.size, target.sha1 = size, sha1
                return target
            self.check_free(target, name)
            file = File(str(next(self.numbers)), name, target, size, sha1)
            target.children[name.casefold()] = self.files[file.id] = file
            return file

    @staticmethod
    def check_free(folder: Folder, name: str) -> None:
        """Refuses a name in use (Box sends an object here, not an array)."""
        taken = folder.children.get(name.casefold())
        if taken is not None:
            raise RefusalError(409, "item_name_in_use", conflict=show(taken))

    def folder(self, folder_id: object) -> Folder:
        """The folder of that id."""
        return _known(self.folders, folder_id)

    def file(self, file_id: object) -> File:
        """The file of that id."""
        return _known(self.files, file_id)

    def original(self, name: str, size: int) -> Original:
        """The file that is to arrive under a name. Refuses what is not to."""
        original = _known(self.originals, name)
        if original.size != size:
            raise RefusalError(400, "not_the_original")
        return original

    def remove(self, item: Folder | File) -> None:
        """Forget an item and what is below it."""
        with self.guard:
            if item.parent is not None:
                item.parent.children.pop(item.name.casefold(), None)
            self.folders.pop(item.id, None)
            self.files.pop(item.id, None)

    def report(self) -> Json:
        """What a run left behind and asked for."""
        return {
            "files": {path_of(file): [file.size, file.sha1] for file in self.files.values()},
            "calls": dict(self.calls),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "open_sessions": len(self.sessions),
            "upload_span_s": max(self.uploaded_at, default=0.0) - min(self.uploaded_at, default=0.0),
        }


def _known(items: dict[str, Item], item_id: object) -> Item:
    try:
        return items[str(item_id)]
    except KeyError:
        raise RefusalError(404, "not_found") from None


def path_of(file: File) -> str:
    """Names from the root down, the root left out."""
    names, folder = [file.name], file.parent
    while folder.parent is not None:
        names.insert(0, folder.name)
        folder = folder.parent
    return "/".join(names)


def show(item: Folder | File) -> Json:
    """An item in JSON, with whatever the clients look at; `fields` is not obeyed."""
    shown: Json = {
        "type": "file" if isinstance(item, File) else "folder",
        "id": item.id,
        "etag": "0",
        "sequence_id": "0",
        "name": item.name,
        "item_status": "active",
        "created_at": STAMP,
        "modified_at": STAMP,
        "content_modified_at": STAMP,
    }
    if item.parent is not None:
        parent = item.parent
        shown["parent"] = {
            "type": "folder",
            "id": parent.id,
            "etag": "0",
            "sequence_id": "0",
            "name": parent.name,
        }
    if isinstance(item, File):
        shown |= {"size": item.size, "sha1": item.sha1}
    return shown


class Service:
    """Answers requests; any number of threads at once."""

    def __init__(self) -> None:
        self.state = State(Behaviour(), {})
        self._originals: dict[str, Original] = {}
        """By path: what is known of them serves every run."""

    def answer(self, request: Request, scheme: str) -> Answer:
        """The answer, held back as `Behaviour` says. The request's body is read to its end."""
        if request.path.startswith("/_bench/"):
            try:
                return self._control(request)
            except RefusalError as exc:
                request.drain()
                return exc.answer
        state = self.state
        steps = [unquote(step) for step in request.path.removeprefix("/api").strip("/").split("/")]
        kind = f"{request.method} {'/'.join('*' if re.search('[0-9]', step) else step for step in steps[1:])}"
        try:
            user_id = request.headers.get("as-user", "")
            call = SimpleNamespace(method=request.method, path=request.path, user_id=user_id)
            state.limits.check(cast("Call", call))
            answer = self._answer(state, request, steps, f"{scheme}://{request.headers.get('host')}/api/2.0")
        except RefusalError as exc:
            answer = exc.answer
        except RefusedError as exc:
            answer = Answer(exc.status, {"type": "error", "code": exc.code}, dict(exc.headers or {}))
        request.drain()
        with state.guard:
            state.calls[kind] += 1
            state.statuses[answer.status] += 1
        wait_s = state.behaviour.delay_s
        if kind in ("POST files/content", "POST files/*/content") and answer.status < 300:
            wait_s += state.behaviour.upload_s
        if wait_s:
            time.sleep(wait_s)
        return answer

    def _answer(self, state: State, request: Request, steps: list[str], base: str) -> Answer:  # noqa: C901 -- a table
        match (request.method, *steps):
            case ("POST", "oauth2", "token"):
                return Answer(200, {"access_token": "T", "expires_in": 3600, "token_type": "bearer"})
            case ("GET", _, "users", "me"):
                return Answer(200, {"type": "user", "id": "1", "name": "Bench", "login": "bench@example.com"})
            case ("POST", _, "folders"):
                given = json.loads(request.read_body())
                parent = state.folder(given["parent"]["id"])
                return Answer(201, show(state.add_folder(parent, given["name"])))
            case ("GET", _, "folders", folder_id):
                return Answer(200, show(state.folder(folder_id)))
            case ("GET", _, "folders", folder_id, "items"):
                return self._list(state.folder(folder_id), request.query)
            case ("OPTIONS", _, "files", "content"):
                given = json.loads(request.read_body())
                state.check_free(state.folder(given["parent"]["id"]), given["name"])
                return Answer(200, {"upload_url": f"{base}/files/content", "upload_token": "U"})
            case ("OPTIONS", _, "files", file_id, "content"):
                state.file(file_id)
                return Answer(200, {"upload_url": f"{base}/files/{file_id}/content", "upload_token": "U"})
            case ("POST", _, "files", "content"):
                return self._upload(state, request, None)
            case ("POST", _, "files", "upload_sessions"):
                return self._open_session(state, json.loads(request.read_body()), None, base)
            case ("POST", _, "files", file_id, "content"):
                return self._upload(state, request, state.file(file_id))
            case ("POST", _, "files", file_id, "upload_sessions"):
                return self._open_session(state, json.loads(request.read_body()), state.file(file_id), base)
            case (_, _, "files", "upload_sessions", session_id, *rest):
                session = _known(state.sessions, session_id)
                return self._in_session(state, request, session, base, rest)
            case ("GET", _, "files", file_id):
                return Answer(200, show(state.file(file_id)))
            case ("DELETE", _, "files", file_id):
                state.remove(state.file(file_id))
                return Answer(204)
            case ("DELETE", _, "folders", folder_id):
                state.remove(state.folder(folder_id))
                return Answer(204)
        raise RefusalError(404, "not_found")

    @staticmethod
    def _list(folder: Folder, query: str) -> Answer:
        """A page, by marker or by offset: both are a number of items here."""
        given = parse_qs(query)
        limit = min(int(given.get("limit", ["100"])[0]), 1000)
        start = int(given.get("marker", given.get("offset", ["0"]))[0] or 0)
        items = list(folder.children.values())
        page = [show(item) for item in items[start : start + limit]]
        answer: Json = {"entries": page, "limit": limit, "offset": start, "total_count": len(items)}
        if start + limit < len(items):
            answer["next_marker"] = str(start + limit)
        return Answer(200, answer)

    @staticmethod
    def _upload(state: State, request: Request, replaces: File | None) -> Answer:
        """`attributes` and then the file, from a form."""
        found = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
        body = request.read_body()
        if found is None:
            raise RefusalError(400, "bad_request")
        mark = b"\r\n--" + found[1].encode()
        about_at = body.index(b"\r\n\r\n") + 4
        about_end = body.index(mark, about_at)
        attributes = json.loads(body[about_at:about_end])
        file_at = body.index(b"\r\n\r\n", about_end) + 4
        file_end = body.rindex(mark)
        content = memoryview(body)[file_at:file_end]
        sha1 = hashlib.sha1(content).hexdigest()
        if request.headers.get("content-md5", sha1).lower() != sha1:
            raise RefusalError(400, "bad_digest")
        name = attributes.get("name") or (replaces.name if replaces else "")
        target = replaces or state.folder(attributes["parent"]["id"])
        file = state.add_file(target, name, len(content), sha1)
        if name != RECEIPT_NAME:
            state.uploaded_at.append(time.monotonic())
        return Answer(201, {"total_count": 1, "entries": [show(file)]})

    def _open_session(self, state: State, given: Json, replaces: File | None, base: str) -> Answer:
        if replaces is None:
            folder = state.folder(given["folder_id"])
            state.check_free(folder, given["file_name"])
        name = given.get("file_name") or (replaces.name if replaces else "")
        part_size, size = state.behaviour.part_size, int(given["file_size"])
        original = state.original(name, size)
        session_id = f"S{next(state.numbers):08X}"
        session = Session(session_id, name, replaces or folder, size, part_size, original)
        state.sessions[session.id] = session
        return Answer(201, self._show_session(session, base))

    @staticmethod
    def _show_session(session: Session, base: str) -> Json:
        url = f"{base}/files/upload_sessions/{session.id}"
        return {
            "id": session.id,
            "type": "upload_session",
            "session_expires_at": "2099-01-01T00:00:00+00:00",
            "part_size": session.part_size,
            "total_parts": -(-session.size // session.part_size),
            "num_parts_processed": len(session.parts),
            "session_endpoints": {
                "upload_part": url,
                "status": url,
                "abort": url,
                "list_parts": f"{url}/parts",
                "commit": f"{url}/commit",
                "log_event": f"{url}/log",
            },
        }

    def _in_session(
        self, state: State, request: Request, session: Session, base: str, rest: Sequence[str]
    ) -> Answer:
        match (request.method, *rest):
            case ("PUT",):
                return self._receive_part(request, session)
            case ("GET",):
                return Answer(200, self._show_session(session, base))
            case ("GET", "parts"):
                given = parse_qs(request.query)
                start = int(given.get("offset", ["0"])[0])
                limit = int(given.get("limit", ["1000"])[0])
                parts = [session.parts[offset] for offset in sorted(session.parts)]
                page = parts[start : start + limit]
                return Answer(
                    200, {"entries": page, "total_count": len(parts), "offset": start, "limit": limit}
                )
            case ("POST", "commit"):
                request.read_body()
                sha1 = session.digest()
                if _hex_digest(request) != sha1:
                    raise RefusalError(400, "digest_mismatch")
                del state.sessions[session.id]
                file = state.add_file(session.target, session.name, session.size, sha1)
                return Answer(201, {"total_count": 1, "entries": [show(file)]})
            case ("DELETE",):
                state.sessions.pop(session.id, None)
                return Answer(204)
        raise RefusalError(404, "not_found")

    @staticmethod
    def _receive_part(request: Request, session: Session) -> Answer:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", request.headers.get("content-range", ""))
        if found is None or int(found[3]) != session.size:
            raise RefusalError(400, "bad_request")
        offset, size = int(found[1]), int(found[2]) - int(found[1]) + 1
        if session.original.receive(request, offset) != size:
            raise RefusalError(416, "invalid_range")
        if _hex_digest(request) != session.original.part_sha1(offset, size):
            raise RefusalError(412, "precondition_failed")
        return Answer(200, {"part": session.add(offset, size)})

    def _control(self, request: Request) -> Answer:
        """The harness's own calls, and a plain PUT for a pipe that ends in curl."""
        match (request.method, request.path.removeprefix("/_bench/").partition("/")[0]):
            case ("POST", "reset"):
                given = json.loads(request.read_body())
                behaviour = Behaviour(**given["behaviour"])
                originals = self._known_originals(given["originals"], behaviour.part_size)
                self.state = State(behaviour, originals)
                return Answer(200, {"root_id": self.state.add_folder(self.state.root, "Agency").id})
            case ("GET", "report"):
                return Answer(200, self.state.report())
            case ("PUT", "put"):
                return self._receive_stream(self.state, request, request.path.rpartition("/")[2])
        return Answer(404)

    def _known_originals(self, given: dict[str, str], part_size: int) -> dict[str, Original]:
        """The files of a run by name, from their paths and SHA-1."""
        originals = {}
        for path, sha1 in given.items():
            original = self._originals.get(path)
            if original is None or original.sha1 != sha1:
                original = self._originals[path] = Original(Path(path), sha1)
            original.hash_parts(part_size)
            originals[Path(path).name] = original
        return originals

    @staticmethod
    def _receive_stream(state: State, request: Request, name: str) -> Answer:
        """A plain PUT, compared as a session's parts are: so that it costs the stand-in just as much."""
        agency = next(folder for folder in state.folders.values() if folder.name == "Agency")
        original = _known(state.originals, name)
        size = original.receive(request, 0)
        if size != original.size:
            raise RefusalError(400, "not_the_original")
        file = state.add_file(agency, name, size, original.sha1)
        time.sleep(state.behaviour.delay_s)
        return Answer(201, {"size": file.size, "sha1": file.sha1})


def _hex_digest(request: Request) -> str:
    """What a `digest: sha=BASE64` header says, in hex."""
    return base64.b64decode(request.headers.get("digest", "").removeprefix("sha=")).hex()


class Listener:
    """One port, a thread per connection."""

    def __init__(self, service: Service, context: ssl.SSLContext, *, is_tls: bool) -> None:
        self._service = service
        self._context = context
        self._is_tls = is_tls
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(connection)
        try:
            self._wait_for_round_trips(1)
            if self._is_tls:
                self._start_tls(wire)
            while (request := Request.read(wire)) is not None:
                if request.method == "CONNECT":
                    wire.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    self._start_tls(wire)
                    continue
                answer = self._service.answer(request, "https" if wire.is_tls else "http")
                wire.send(answer.to_bytes())
        except (OSError, ClosedError):
            pass
        finally:
            wire.close()

    def _start_tls(self, wire: Wire) -> None:
        self._wait_for_round_trips(1)
        wire.start_tls(self._context)

    def _wait_for_round_trips(self, count: int) -> None:
        if self._service.state.behaviour.delay_s:
            time.sleep(count * self._service.state.behaviour.delay_s)


def main() -> int:
    """Print the two ports, then serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True, help="PEM with key and chain")
    given = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.certificate)
    # Threads hold the interpreter for microseconds here; the default of 5 ms would show up as latency.
    sys.setswitchinterval(0.0005)
    service = Service()
    plain = Listener(service, context, is_tls=False)
    tls = Listener(service, context, is_tls=True)
    sys.stdout.write(json.dumps({"plain": plain.port, "tls": tls.port}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

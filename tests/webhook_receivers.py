"""Receivers of webhooks: one that takes whatever comes, and stand-ins for the vendors' published APIs."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, object]
"""Status, and what goes out as JSON; or headers as a third member."""


@dataclass
class Call:
    """One call that arrived. headers: their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


@dataclass
class Receiver:
    """Takes whatever comes. answers: {which call, from 1: (status, headers)} of those that it does not take;
    refusing: the answer to all calls while it is set.
    """

    calls: list[Call] = field(default_factory=list)
    answers: dict[int, tuple[int, dict[str, str]]] = field(default_factory=dict)
    refusing: tuple[int, dict[str, str]] | None = None
    url: str = ""

    def answer(self, call: Call) -> tuple[int, dict[str, str], object]:
        self.calls.append(call)
        refusal = self.refusing or self.answers.get(len(self.calls))
        if refusal is not None:
            return *refusal, "no"
        return self.accepted(call)

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        """What is answered to a call that is taken."""
        return 200, {}, "ok"

    @property
    def types(self) -> list[str]:
        """Of `standard` payloads."""
        return [call.json["type"] for call in self.calls]


@contextmanager
def receiving(receiver: Receiver) -> Iterator[Receiver]:
    """A server behind which it stands; its address is `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                status, more, content = receiver.answer(Call(self.command, self.path, headers, body))
            except ConnectionAbortedError:  # the answer never comes
                self.close_connection = True
                return
            sent = b"" if status == 204 else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(sent)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_GET = do_PATCH = do_PUT = _take  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A caller that is killed resets its connection: nothing to tell."""

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class PagerDuty(Receiver):
    """Events API v2: POST /v2/enqueue. One open incident for a dedup key; a key that was resolved opens the
    next one.
    """

    routing_key: str = "R" * 32
    incidents: list[dict[str, Any]] = field(default_factory=list)

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        event = call.json
        assert call.headers["content-type"] == "application/json"
        if event.get("routing_key") != self.routing_key or event["event_action"] not in (
            "trigger",
            "resolve",
        ):
            return 400, {}, {"status": "invalid event"}
        key = event["dedup_key"]
        assert len(key) <= 255
        is_open = [one for one in self.incidents if one["dedup_key"] == key and one["open"]]
        if event["event_action"] == "resolve":
            for one in is_open:
                one["open"] = False
        else:
            payload = event["payload"]
            assert {"summary", "source", "severity"} <= payload.keys()
            assert len(payload["summary"]) <= 1024
            if not is_open:
                self.incidents.append({"dedup_key": key, "open": True, "summary": payload["summary"]})
        return 202, {}, {"status": "success", "message": "Event processed", "dedup_key": key}


def _login(call: Call) -> str:
    return b64decode(call.headers.get("authorization", "").removeprefix("Basic ")).decode()


@dataclass
class Jira(Receiver):
    """Jira Cloud REST v3: search/jql, issue, transitions, comment."""

    login: str = "robot@example.com:token"
    issues: dict[str, dict[str, Any]] = field(default_factory=dict)

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        if _login(call) != self.login:
            return 401, {}, {"errorMessages": ["Client must be authenticated to access this resource."]}
        path = urlsplit(call.path).path.removeprefix("/rest/api/3")
        routes: list[tuple[str, str, Callable[[Call, str], Answer]]] = [
            ("POST", r"/search/jql", self._search),
            ("POST", r"/issue", self._create),
            ("GET", r"/issue/([^/]+)", self._read),
            ("GET", r"/issue/([^/]+)/transitions", self._transitions),
            ("POST", r"/issue/([^/]+)/transitions", self._move),
            ("POST", r"/issue/([^/]+)/comment", self._comment),
        ]
        for method, pattern, act in routes:
            found = re.fullmatch(pattern, path)
            if found and method == call.method:
                key = found[1] if found.groups() else ""
                if key and key not in self.issues:
                    return 404, {}, {"errorMessages": ["Issue does not exist"]}
                status, content = act(call, key)
                return status, {}, content
        return 404, {}, {"errorMessages": ["no such resource"]}

    @property
    def open(self) -> list[str]:
        return [key for key, issue in self.issues.items() if not issue["done"]]

    def _search(self, call: Call, _: str) -> Answer:
        found = re.fullmatch(
            r'project = "(\w+)" AND labels = "([^"]+)" AND statusCategory != Done', call.json["jql"]
        )
        assert found, call.json["jql"]
        keys = [key for key in self.open if found[2] in self.issues[key]["labels"]]
        return 200, {"issues": [{"id": "1", "key": key} for key in keys], "isLast": True}

    def _create(self, call: Call, _: str) -> Answer:
        fields = call.json["fields"]
        assert fields["description"]["type"] == "doc"
        assert fields["description"]["version"] == 1
        assert not any(" " in label for label in fields["labels"])
        assert "\n" not in fields["summary"]
        assert len(fields["summary"]) <= 255
        key = f"{fields['project']['key']}-{len(self.issues) + 1}"
        self.issues[key] = {"labels": fields["labels"], "done": False, "comments": [], "fields": fields}
        return 201, {"id": "1", "key": key}

    def _status(self, key: str) -> dict[str, Any]:
        is_done = self.issues[key]["done"]
        return {"statusCategory": {"key": "done" if is_done else "new"}}

    def _read(self, call: Call, key: str) -> Answer:
        return 200, {"key": key, "fields": {"status": self._status(key)}}

    def _transitions(self, call: Call, key: str) -> Answer:
        to = {"11": "new", "21": "indeterminate", "31": "done"}
        names = {"11": "To Do", "21": "In Progress", "31": "Done"}
        moves = [
            {"id": number, "name": names[number], "to": {"statusCategory": {"key": category}}}
            for number, category in to.items()
        ]
        return 200, {"transitions": moves}

    def _move(self, call: Call, key: str) -> Answer:
        self.issues[key]["done"] = call.json["transition"]["id"] == "31"
        return 204, None

    def _comment(self, call: Call, key: str) -> Answer:
        assert call.json["body"]["type"] == "doc"
        self.issues[key]["comments"].append(call.json["body"])
        return 201, {"id": "1"}


@dataclass
class ServiceNow(Receiver):
    """The Table API of incident. States: 1 new, 6 resolved, 7 closed, 8 cancelled."""

    login: str = "robot:password"
    incidents: list[dict[str, str]] = field(default_factory=list)

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        if _login(call) != self.login:
            return 401, {}, {"error": {"message": "User is not authenticated"}, "status": "failure"}
        parts = urlsplit(call.path)
        if call.method == "GET" and parts.path == "/api/now/table/incident":
            query = parse_qs(parts.query)["sysparm_query"][0]
            found = re.fullmatch(r"correlation_id=([^^]+)\^stateNOT IN6,7,8", query)
            assert found, query
            return 200, {}, {"result": [
                {"sys_id": one["sys_id"], "number": one["number"]} for one in self.open
                if one["correlation_id"] == found[1]
            ][:1]}  # fmt: skip
        if call.method == "POST" and parts.path == "/api/now/table/incident":
            number = len(self.incidents) + 1
            made = {"sys_id": f"{number:032x}", "number": f"INC{number:07d}", "state": "1", **call.json}
            assert len(made["short_description"]) <= 160
            self.incidents.append(made)
            return 201, {}, {"result": made}
        if call.method == "PATCH" and parts.path.startswith("/api/now/table/incident/"):
            for one in self.incidents:
                if parts.path.endswith(one["sys_id"]):
                    one.update(call.json)
                    return 200, {}, {"result": one}
        return 404, {}, {"error": {"message": "No Record found"}, "status": "failure"}

    @property
    def open(self) -> list[dict[str, str]]:
        return [one for one in self.incidents if one["state"] not in ("6", "7", "8")]


@dataclass
class Slack(Receiver):
    """An incoming webhook: 200 "ok"; a body without text is refused."""

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        return (200, {}, "ok") if call.json.get("text") else (400, {}, "no_text")


@dataclass
class Teams(Receiver):
    """A workflow "when a Teams webhook request is received": 202 for a message of adaptive cards."""

    def accepted(self, call: Call) -> tuple[int, dict[str, str], object]:
        (attachment,) = call.json["attachments"]
        assert call.json["type"] == "message"
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert attachment["content"]["type"] == "AdaptiveCard"
        return 202, {}, None

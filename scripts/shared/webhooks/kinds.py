"""Calls each kind of target: writes the same message in the form of the kind, and reads the answer.

`standard`, `slack` and `teams` get each message. `pagerduty`, `jira` and `servicenow` get one incident per
dedup key. `open` looks for an open incident before it makes one, so that it may be repeated, and returns its
key. `close` ends the incident, and does nothing if it is already closed or deleted.

Sources: PagerDuty Events API v2; Jira Cloud REST v3 (search/jql, issue, transitions, comment); ServiceNow
Table API (incident); Slack incoming webhooks; Teams workflow "when a Teams webhook request is received".
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from shared.base.errors import WebhookError
from shared.base.webhooks import OPENING, EventType, WebhookTarget
from shared.notices.wording import one_line
from shared.webhooks.outbox import DueMessage
from shared.webhooks.payloads import campaigns_of
from shared.webhooks.sending import Receiver
from shared.webhooks.signature import signed_headers

JSON: Final = {"Content-Type": "application/json"}
MOST_LISTED: Final = 100
"""An incident about many campaigns lists this many at most."""


def send_message(due: DueMessage, target: WebhookTarget, receiver: Receiver, at: datetime) -> None:
    """Send to a target that gets each message. Raises WebhookError."""
    headers: Mapping[str, str] = JSON
    if target.kind == "standard":
        body = due.body.encode()
        headers = {**JSON, **signed_headers(due.id, at, body, target.secrets)}
    else:
        body = _json(slack_message(due) if target.kind == "slack" else teams_message(due))
    receiver.call("POST", target.url, headers, body)


def slack_message(due: DueMessage) -> dict[str, Any]:
    """A Slack message. Text from outside can add no link to it, and can notify nobody."""
    title, *lines = (
        line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in said(due, 30)
    )
    return {
        "text": "\n".join([f"*{title.replace('*', '∗')}*", *lines]),
        "mrkdwn": True,
        "unfurl_links": False,
    }


def teams_message(due: DueMessage) -> dict[str, Any]:
    """An adaptive card of text runs, whose text Teams shows unchanged."""
    title, *lines = said(due, 30)
    rows = [(title, {"weight": "bolder", "size": "medium"}), *((line, {}) for line in lines)]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}
            for text, style in rows
        ],
    }
    if link := due.payload["data"].get("link"):
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open", "url": link}]
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card,
    }  # fmt: skip
    return {"type": "message", "attachments": [attachment]}


def said(due: DueMessage, most: int = MOST_LISTED) -> list[str]:
    """A message as lines for people, the title first. most: how many campaigns it lists."""
    payload = due.payload
    data = payload["data"]
    lines = [due.title, *filter(None, [data.get("reason")])]
    if "campaigns" in data:
        listed = campaigns_of(payload)
        lines += [
            f"- {one['number']} {one['name']} (cycle {one['cycle']})".replace("-  ", "- ")
            for one in listed[:most]
        ]
        if len(listed) > most:
            lines.append(f"and {len(listed) - most:,} more")
    lines += [f"Attempt {one['number']}, {one['at']}: {one['reason']}" for one in data.get("attempts", ())]
    for name, words in (("until", "Until"), ("by", "By"), ("hint", "What to do")):
        if data.get(name):
            lines.append(f"{words}: {data[name]}")
    if data.get("link"):
        lines.append(data["link"])
    return lines


class Incidents(Protocol):
    """A system that has incidents. Both methods may be repeated, and raise WebhookError."""

    def open(self, due: DueMessage) -> str:
        """Open an incident for the message's dedup key, unless one is open. Returns its key for people."""
        ...

    def close(self, ticket: str, due: DueMessage, dedup_key: str) -> None:
        """Close the incident of this dedup key. ticket: its key for people, "" when it is not known."""
        ...


def incidents_of(target: WebhookTarget, receiver: Receiver) -> Incidents:
    """The adapter of a target that opens incidents."""
    if target.kind == "pagerduty":
        return PagerDuty(target, receiver)
    user_and_password = b64encode(target.secrets[0].encode()).decode()
    headers = {**JSON, "Accept": "application/json", "Authorization": f"Basic {user_and_password}"}
    parts = urlsplit(target.url)
    site = Site(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", headers, receiver)
    options = dict(parse_qsl(parts.query))
    return Jira(site, options) if target.kind == "jira" else ServiceNow(site, options)


@dataclass(frozen=True, slots=True)
class PagerDuty:
    """Events API v2. PagerDuty itself keeps one incident per dedup key. It answers every call with 202."""

    target: WebhookTarget
    receiver: Receiver

    def open(self, due: DueMessage) -> str:
        data = due.payload["data"]
        payload = {
            "summary": one_line(due.title, 1024),
            "source": data["installation"],
            "severity": "warning" if due.event is EventType.TEST else "error",
            "timestamp": due.payload["timestamp"],
            "component": "a1-to-a2",
            "class": due.event.value,
            "custom_details": {"text": "\n".join(said(due)[1:]), **data},
        }
        more: dict[str, Any] = {"payload": payload, "client": "A1→A2"}
        if data.get("link"):
            more["links"] = [{"href": data["link"], "text": "The campaign on the operator's page"}]
        return self._send("trigger", due.dedup_key, more)

    def close(self, ticket: str, due: DueMessage, dedup_key: str) -> None:
        self._send("resolve", dedup_key, {})

    def _send(self, action: str, dedup_key: str, more: Mapping[str, Any]) -> str:
        event = {
            "routing_key": self.target.secrets[0],
            "event_action": action,
            "dedup_key": dedup_key,
            **more,
        }
        self.receiver.call("POST", self.target.url, JSON, _json(event))
        return dedup_key


@dataclass(frozen=True, slots=True)
class Site:
    """A REST API. base: its address. headers: of each call, with the login."""

    base: str
    headers: Mapping[str, str]
    receiver: Receiver

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        content = b"" if body is None else _json(body)
        return self.receiver.call(method, f"{self.base}{path}", self.headers, content, is_read=True)


@dataclass(frozen=True, slots=True)
class Jira:
    """Jira Cloud. The dedup key is a label of the issue. options: the URL's parameters: project, issuetype,
    and close, which names the transition that closes; without it, the first one to a status that means done.
    """

    site: Site
    options: Mapping[str, str]

    def open(self, due: DueMessage) -> str:
        found = self._find(due.dedup_key)
        if found:
            return found
        fields = {
            "project": {"key": self.options["project"]},
            "issuetype": {"name": self.options.get("issuetype", "Task")},
            "summary": one_line(due.title, 255),
            "description": _document(said(due)[1:]),
            "labels": [due.dedup_key, "a1-to-a2"],
        }
        return _text(self.site.ask("POST", "/rest/api/3/issue", {"fields": fields}), "key", "Jira")

    def _find(self, label: str) -> str:
        """The issue with this label that is not done; "" when there is none."""
        project = self.options["project"]
        jql = f'project = "{_quoted(project)}" AND labels = "{_quoted(label)}" AND statusCategory != Done'
        wanted = {"jql": jql, "maxResults": 1, "fields": ["status"]}
        found = _first(self.site.ask("POST", "/rest/api/3/search/jql", wanted), "issues")
        return _text(found, "key", "Jira") if found else ""

    def close(self, ticket: str, due: DueMessage, dedup_key: str) -> None:
        ticket = ticket or self._find(dedup_key)
        if not ticket:
            return
        issue = f"/rest/api/3/issue/{quote(ticket, safe='')}"
        try:
            now = self.site.ask("GET", f"{issue}?fields=status")
            if _is_done(now.get("fields", {}).get("status")):
                return
            moves = self.site.ask("GET", f"{issue}/transitions").get("transitions") or []
            wanted = self.options.get("close", "")
            fitting = [
                move for move in moves
                if (move.get("name") == wanted if wanted else _is_done(move.get("to")))
            ]  # fmt: skip
            if not fitting:
                what = f"named {wanted!r}" if wanted else "to a status that means done"
                raise WebhookError(f"issue {one_line(ticket, 50)} has no transition {what}", kind="refused")
            self.site.ask("POST", f"{issue}/comment", {"body": _document(said(due))})
            self.site.ask("POST", f"{issue}/transitions", {"transition": {"id": fitting[0].get("id")}})
        except WebhookError as exc:
            if exc.status_code != 404:  # somebody has deleted it
                raise


@dataclass(frozen=True, slots=True)
class ServiceNow:
    """ServiceNow. The dedup key is the incident's correlation_id. options: the URL's parameters: further
    fields of the incident, and close_code. It is closed when it is resolved (6), closed (7) or cancelled (8).
    """

    site: Site
    options: Mapping[str, str]

    def open(self, due: DueMessage) -> str:
        found = self._find(due.dedup_key)
        if found is not None:
            return _text(found, "number", "ServiceNow")
        given = {name: value for name, value in self.options.items() if name != "close_code"}
        fields = {
            "short_description": one_line(due.title, 160),
            "description": "\n".join(said(due)[1:]),
            "correlation_id": due.dedup_key,
            "correlation_display": "a1-to-a2",
            **given,
        }
        made = self.site.ask("POST", "/api/now/table/incident", fields).get("result")
        return _text(made, "number", "ServiceNow")

    def close(self, ticket: str, due: DueMessage, dedup_key: str) -> None:
        found = self._find(dedup_key)
        if found is None:
            return
        fields = {
            "state": "6",
            "close_code": self.options.get("close_code", "Solution provided"),
            "close_notes": "\n".join(said(due)),
        }
        self.site.ask(
            "PATCH", f"/api/now/table/incident/{quote(_text(found, 'sys_id', 'ServiceNow'))}", fields
        )

    def _find(self, dedup_key: str) -> dict[str, Any] | None:
        """The open incident of a dedup key; None when there is none."""
        query = {
            "sysparm_query": f"correlation_id={dedup_key}^stateNOT IN6,7,8",
            "sysparm_fields": "sys_id,number",
            "sysparm_limit": "1",
        }
        return _first(self.site.ask("GET", f"/api/now/table/incident?{urlencode(query)}"), "result")


def opens(event: EventType) -> bool:
    """Whether an event opens an incident. All others close one; a test does both."""
    return event in OPENING or event is EventType.TEST


def _first(answer: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    found = answer.get(name)
    if not isinstance(found, list):
        raise WebhookError(f"the answer has no list named {name!r}", kind="answer_unfit", retryable=True)
    return found[0] if found and isinstance(found[0], dict) else None


def _text(found: object, name: str, system: str) -> str:
    """A key from the system's answer, on one line and not too long."""
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise WebhookError(f"the answer of {system} has no {name!r}", kind="answer_unfit", retryable=True)
    return one_line(value, 100)


def _is_done(status: object) -> bool:
    category = status.get("statusCategory") if isinstance(status, dict) else None
    return isinstance(category, dict) and category.get("key") == "done"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _document(lines: Sequence[str]) -> dict[str, Any]:
    """The lines in Jira's document format (ADF), each as a paragraph."""
    paragraphs = [
        {"type": "paragraph", "content": [{"type": "text", "text": line}]} for line in lines if line
    ]
    return {"type": "doc", "version": 1, "content": paragraphs}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

"""The demo's index.html: one file that needs nothing from anywhere, for screens of every size.

Names of campaigns and files come from outside: all of them are escaped, mails are shown in frames that may do
nothing, and the page's own policy forbids scripts and connections.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

STYLE = Path(__file__).with_suffix(".css")
LARGEST_PICTURE_BYTES = 100_000
PICTURE_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
PLAIN_LABELS = {"✓": "Checked", "✗": "Failed", "dam": "DAM", "box": "Box", "you": "You", "row": "Row"}


@dataclass(frozen=True)
class Line:
    """One line of the story. link: where its text leads on the page, from the demo's folder; "": nowhere.

    The label is that of `Narrator.say`, "code" for what is typed, or "answer" for what a tool printed.
    """

    label: str
    text: str
    link: str = ""


@dataclass
class Act:
    """A part of the story."""

    title: str
    lines: list[Line] = field(default_factory=list)

    @property
    def result(self) -> str:
        """What the act has shown, in a sentence or two; "" when it did not finish."""
        return next((line.text for line in reversed(self.lines) if line.label == "✓"), "")


@dataclass(frozen=True)
class Mail:
    """An e-mail that came. `stem` is its file name without the ending, `run` the run that sent it."""

    stem: str
    run: int
    to: str
    subject: str
    text: str
    html: str

    @property
    def file(self) -> str:
        """Its HTML part, from the demo's folder."""
        return f"mails/{self.stem}.html"


@dataclass(frozen=True)
class StoredFile:
    """A verified file in Box. `path` is its path there; `was` its name in the DAM when that was another."""

    path: str
    size: int
    sha1: str
    was: str


@dataclass(frozen=True)
class Snapshot:
    """What psql showed at one moment."""

    title: str
    text: str


@dataclass(frozen=True)
class Page:
    """All that the page shows. `rows`: campaign_status by column name. `failure`: empty when all is well."""

    acts: Sequence[Act]
    mails: Sequence[Mail]
    files: Sequence[StoredFile]
    rows: Sequence[dict[str, str]]
    snapshots: Sequence[Snapshot]
    pictures: Sequence[Path]
    figures: Sequence[tuple[str, str]]
    failure: str


def write_page(output: Path, page: Page) -> None:
    """Write index.html into the demo's folder, next to `mails/`, `box/`, `runs/` and `database/`."""
    body = "".join(
        (
            _head(page),
            _story(page),
            _mails(page.mails),
            _box(page.files, output / "box"),
            _database(page),
            _pictures(page.pictures),
        )
    )
    document = _DOCUMENT.replace("{{STYLE}}", STYLE.read_text(encoding="utf-8")).replace("{{BODY}}", body)
    (output / "index.html").write_text(document, encoding="utf-8")


def human_size(size: int) -> str:
    """`60.0 MB`, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} byte{'' if size == 1 else 's'}"


def _head(page: Page) -> str:
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in page.figures
    )
    verdict = '<p class="verdict good">Everything happened as promised.</p>'
    if page.failure:
        verdict = (
            '<div class="verdict bad" role="alert"><p>The demo failed.</p>'
            f"<pre>{escape(page.failure)}</pre></div>"
        )
    return f"""<header>
<p class="eyebrow">Demo</p>
<h1>From A1 to A2</h1>
<p class="lead">When a marketing campaign is set to A1, its master assets are copied from the DAM to the
agency’s Box folder, every byte is checked, and the campaign is set to A2. This page shows what happens when
the files come late, when they never come, and when the campaign should not have been in A1. The scripts and
PostgreSQL are real; the DAM, Box and the mail server are stand-ins. All of it ran on this machine.</p>
{verdict}
<dl class="figures">{cards}</dl>
</header>
"""


def _story(page: Page) -> str:
    acts = "".join(map(_act, page.acts))
    return (
        '<section aria-labelledby="story"><h2 id="story">The story</h2>\n'
        f"<p>Click a run to see its log, and a subject to see the e-mail.</p>\n{acts}</section>\n"
    )


def _act(act: Act) -> str:
    """Folded on a phone: its title and its result. On a wide screen the style shows all of it."""
    return (
        f'<details class="act"><summary><h3>{escape(act.title)}</h3>'
        f'<p class="result"><bdi>{escape(act.result)}</bdi></p></summary>{_lines(act)}</details>\n'
    )


def _lines(act: Act) -> str:
    items = []
    for line in act.lines:
        label, text = line.label, f"<bdi>{escape(line.text)}</bdi>"
        if line.link:
            text = f'<a href="{escape(line.link)}">{text}</a>'
        if label == "code":
            items.append(f'<li><span class="label"></span> <code>{escape(line.text)}</code></li>')
            continue
        if label == "answer":
            answer = _scrolling(f"<pre>{escape(line.text)}</pre>", "The answer")
            items.append(f'<li class="answer">{answer}</li>')
            continue
        kind = {"✓": "ok", "✗": "no"}.get(label, label.split(" ", maxsplit=1)[0])
        name = PLAIN_LABELS.get(label, label.capitalize())
        if label.startswith("run "):
            log = f"{int(label.removeprefix('run ')):02d}.log"
            name_html = f'<a href="runs/{log}">{escape(name)}</a>'
        else:
            name_html = escape(name)
        items.append(f'<li class="k-{escape(kind)}"><span class="label">{name_html}</span> {text}</li>')
    return f"<ol>{''.join(items)}</ol>"


def _mails(mails: Sequence[Mail]) -> str:
    return (
        f'<section aria-labelledby="mails"><h2 id="mails">The inbox: {len(mails)} e-mails</h2>\n'
        "<p>Open one to see it as its readers do.</p>\n" + "".join(map(_mail, mails)) + "</section>\n"
    )


def _mail(mail: Mail) -> str:
    links = " · ".join(
        f'<a href="mails/{mail.stem}.{ending}">{name}</a>'
        for ending, name in (("html", "on its own"), ("txt", "as text"), ("eml", "as received"))
    )
    return (
        f'<details class="mail"><summary><span class="number">{int(mail.stem)}</span>'
        f'<span class="subject"><bdi>{escape(mail.subject)}</bdi></span></summary>\n'
        f'<p class="about">To {escape(mail.to)}, after run {mail.run} · {links}</p>\n'
        f'<iframe sandbox="" title="{escape(mail.subject)}" srcdoc="{escape(mail.html)}"></iframe>'
        "</details>\n"
    )


def _box(files: Sequence[StoredFile], content: Path) -> str:
    tree = _tree(
        [(file.path.split("/"), file) for file in sorted(files, key=lambda file: file.path)], content
    )
    return (
        f'<section aria-labelledby="box"><h2 id="box">What is in Box: {len(files)} files</h2>\n'
        "<p>Every file here has the size and the SHA-1 of its source in the DAM.</p>\n"
        f'<div class="tree">{tree}</div></section>\n'
    )


def _tree(entries: Sequence[tuple[list[str], StoredFile]], content: Path) -> str:
    """Nested lists; files come before folders, in the order given."""
    here = [file for names, file in entries if len(names) == 1]
    below: dict[str, list[tuple[list[str], StoredFile]]] = {}
    for names, file in entries:
        if len(names) > 1:
            below.setdefault(names[0], []).append((names[1:], file))
    items = [f"<li>{_file(file, content)}</li>" for file in here]
    items += [
        f"<li><details open><summary><bdi>{escape(name)}</bdi>/</summary>"
        f"{_tree(inside, content)}</details></li>"
        for name, inside in below.items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def _file(file: StoredFile, content: Path) -> str:
    name = file.path.rsplit("/", maxsplit=1)[-1]
    was = f', in the DAM <bdi class="was">{escape(file.was)}</bdi>' if file.was else ""
    return (
        f'{_picture(file, content)}<a href="box/{escape(quote(file.path))}"><bdi>{escape(name)}</bdi></a>'
        f'<span class="about">{human_size(file.size)}, SHA-1 <code>{escape(file.sha1[:12])}…</code>'
        f"{was}</span>"
    )


def _picture(file: StoredFile, content: Path) -> str:
    kind = PICTURE_TYPES.get(Path(file.path).suffix.lower())
    if kind is None or not 0 < file.size <= LARGEST_PICTURE_BYTES:
        return ""
    data = base64.b64encode((content / file.path).read_bytes()).decode()
    return f'<img alt="" src="data:{kind};base64,{data}">'


def _database(page: Page) -> str:
    shots = "".join(
        f"<details><summary>{escape(taken.title)}</summary>"
        + _scrolling(f"<pre>{escape(taken.text)}</pre>", taken.title)
        + "</details>\n"
        for taken in page.snapshots
    )
    return (
        '<section aria-labelledby="database"><h2 id="database">The table campaign_status</h2>\n'
        f"<p>At the end:</p>\n{_scrolling(_table(page.rows), 'campaign_status')}\n"
        "<p>What psql showed an operator during the story"
        ' (also in <a href="database/campaign_status.txt">one file</a>):</p>\n'
        f"{shots}</section>\n"
    )


def _pictures(pictures: Sequence[Path]) -> str:
    """The operator's page as a desktop showed it; links to all pictures."""
    if not pictures:
        return ""
    items = []
    for path in pictures:
        name, label = f"page/{path.name}", path.stem.replace("_", ", ").capitalize()
        shown = ""
        if path.stem.endswith("_desktop"):
            data = base64.b64encode(path.read_bytes()).decode()
            shown = f'<img alt="The page: {escape(label)}" src="data:image/png;base64,{data}">'
        items.append(f'<li><a href="{escape(quote(name))}">{escape(label)}</a>{shown}</li>')
    return (
        '<section aria-labelledby="page"><h2 id="page">The operator’s page</h2>\n'
        f'<ul class="pictures">{"".join(items)}</ul></section>\n'
    )


def _table(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return "<p>No rows.</p>"
    lines = "".join(f"<tr>{_cells('td', row.values())}</tr>" for row in rows)
    return f"<table><thead><tr>{_cells('th scope=col', rows[0])}</tr></thead><tbody>{lines}</tbody></table>"


def _cells(tag: str, texts: Iterable[str]) -> str:
    name = tag.split(" ", maxsplit=1)[0]
    return "".join(f"<{tag}><bdi>{escape(text)}</bdi></{name}>" for text in texts)


def _scrolling(content: str, name: str) -> str:
    """Wide things scroll on their own, by keyboard too, and the page stays as wide as the screen."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'


_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>From A1 to A2: the demo</title>
<style>{{STYLE}}</style>
</head>
<body>
<nav aria-label="On this page"><a href="#story">Story</a> <a href="#mails">Inbox</a> <a href="#box">Box</a>
<a href="#database">Database</a> <a href="#page">Page</a></nav>
<main>
{{BODY}}</main>
</body>
</html>
"""

"""From rounds to figures: medians, spreads and ratios, as JSON and as a Markdown table.

By hand, to show one record or several, or to put them into the page:

    python -m bench.report bench.json [MORE.json] [--into MARKDOWN_DOCS/PERFORMANCE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import Case, Costs, all_cases
from bench.network import congestion_control
from bench.openssl import own_version
from bench.stage import Cost

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Json = dict[str, Any]


def spread(values: Sequence[float]) -> Json:
    """Median, least and greatest."""
    return {
        "median": round(median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def disturbance(costs: Iterable[Cost]) -> float:
    """The greatest share that others had in any of these runs."""
    return max(cost.foreign for cost in costs)


def summarise(case: Case, all_costs: Costs, most_foreign: float = 1.0) -> Json:
    """One case as it goes into the record.

    Rounds in which others had more of the machine than `most_foreign` are left out of the figures, for all
    contenders alike. When that would leave none, all are taken and the case is marked as disturbed.
    """
    bars = []
    every = list(zip(*all_costs.values(), strict=True))
    quiet = [number for number, costs in enumerate(every) if disturbance(costs) <= most_foreign]
    chosen = quiet or range(len(every))
    costs = {label: [of_one[number] for number in chosen] for label, of_one in all_costs.items()}
    rounds = len(chosen)
    for bar in case.bars:
        value = bar.measure(costs)
        each = [
            bar.measure({label: [of_one[number]] for label, of_one in costs.items()})
            for number in range(rounds)
        ]
        bars.append(
            {
                "measure": bar.text,
                "value": round(value, 4),
                "min": round(min(each), 4),
                "max": round(max(each), 4),
                "bar": ("≥ " if bar.is_minimum else "≤ ") + f"{bar.limit:g}",
                "met": bar.is_met(value),
            }
        )
    return {
        "case": case.key,
        "title": case.title,
        "note": case.note,
        "rounds": rounds,
        "left_out": len(every) - rounds,
        "disturbed": not quiet,
        "contenders": {
            entry.label: _figures(
                costs[entry.label], entry.task.file_count, entry.task.files.size * entry.task.campaigns
            )
            for entry in case.entries
        },
        "bars": bars,
    }


def _figures(costs: Sequence[Cost], files: int, size: int) -> Json:
    figures: Json = {
        "wall_s": spread([cost.wall_s for cost in costs]),
        "cpu_s": spread([cost.cpu_s for cost in costs]),
        "peak_mb": spread([cost.peak_bytes / 1e6 for cost in costs]),
        "foreign": spread([cost.foreign for cost in costs]),
        "rounds": [cost.to_json() for cost in costs],
    }
    if files:
        cpu, wall = figures["cpu_s"]["median"], figures["wall_s"]["median"]
        calls = median(sum(cost.dam_calls.values()) + sum(cost.box_calls.values()) for cost in costs)
        figures |= {
            "files": files,
            "bytes": size,
            "mb_per_s": round(size / 1e6 / wall, 1),
            "files_per_s": round(files / wall, 2),
            "cpu_s_per_gb": round(cpu / (size / 1e9), 3),
            "cpu_s_per_1000_files": round(cpu / files * 1000, 3),
            "calls_per_file": round(calls / files, 2),
        }
    return figures


def describe_machine() -> Json:
    """Enough to know what the figures stand for."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{_distribution()}, {platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({own_version()})",
        "tcp": congestion_control(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "unknown distribution"


def first_line(*command: str | Path) -> str:
    """What a program says of its version."""
    done = subprocess.run([*command], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def describe_checkout(folder: Path) -> str:
    """The commit, or the folder's name when it is no checkout."""
    described = first_line("git", "-C", folder, "describe", "--always", "--dirty")
    return folder.name if described.startswith("fatal") else described


def record(**about: Any) -> Json:
    """An empty record of a run."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"made_at": made_at, **about, "cases": [], "wrong_results": []}


def merge(documents: Sequence[Json]) -> list[Json]:
    """Records of the same programs and options as one; of a case that is in more than one the last counts."""
    groups: dict[str, list[Json]] = {}
    for document in documents:
        alike = [document.get(name) for name in ("versions", "scale", "ranges", "checksums")]
        groups.setdefault(json.dumps(alike), []).append(document)
    return [_merge_alike(group) for group in groups.values()]


def _merge_alike(documents: Sequence[Json]) -> Json:
    by_key = {case["case"]: case for document in documents for case in document["cases"]}
    order = [case.key for case in all_cases()]
    cases = sorted(by_key.values(), key=lambda case: order.index(case["case"]))
    wrong = [line for document in documents for line in document["wrong_results"]]
    return {**documents[-1], "cases": cases, "wrong_results": wrong}


def to_markdown(document: Json) -> str:
    """Where and when, the bars, and the figures behind them."""
    return "\n".join([*_heading(document), "", *_bars(document), "", *_table(document), ""])


def _heading(document: Json) -> Iterator[str]:
    machine = document["machine"]
    place = f"{machine['cores']} cores of {machine['processor']}, {machine['system']}, TCP {machine['tcp']}"
    versions = "; ".join(document["versions"].values())
    yield f"{document['made_at'][:10]}, {place}, Python {machine['python']}; {versions}."
    if document.get("scale", 1) != 1:
        yield f"\n**Sizes and counts divided by {document['scale']}: no figure to be compared with a bar.**"
    for name, text in (("ranges", "answers Range requests"), ("checksums", "declares MD5 checksums")):
        if document.get(name):
            yield f"\nThe DAM {text}."
    for wrong in document.get("wrong_results", ()):
        yield f"\n**Wrong result, {wrong.splitlines()[0][:200]}**"


def _bars(document: Json) -> Iterator[str]:
    yield "| work | measure | reached (single rounds) | bar | |"
    yield "|---|---|---|---|---|"
    for case in document["cases"]:
        for bar in case["bars"]:
            met = "met" if bar["met"] else "**not met**"
            if case.get("disturbed"):
                met += ", disturbed"
            if document.get("scale", 1) != 1:
                met = "–"
            reached = f"{bar['value']:.2f} ({bar['min']:.2f}–{bar['max']:.2f})"
            yield f"| {case['title']} | {bar['measure']} | {reached} | {bar['bar']} | {met} |"


def _table(document: Json) -> Iterator[str]:
    columns = ["work", "who", "n", "wall s", "MB/s", "files/s", "CPU s", "per GB", "per 1,000 files"]
    yield "| " + " | ".join([*columns, "peak MB", "calls/file", "others"]) + " |"
    yield "|---" * (len(columns) + 3) + "|"
    for case in document["cases"]:
        for who, figures in case["contenders"].items():
            cells = [case["title"], who, len(figures["rounds"]), _spread(figures["wall_s"])]
            cells += [figures.get(name, "–") for name in ("mb_per_s", "files_per_s")]
            cells += [_spread(figures["cpu_s"])]
            cells += [figures.get(name, "–") for name in ("cpu_s_per_gb", "cpu_s_per_1000_files")]
            cells += [f"{figures['peak_mb']['median']:.0f}", figures.get("calls_per_file", "–")]
            cells += [f"{figures['foreign']['median']:.0%}"]
            yield "| " + " | ".join(map(str, cells)) + " |"


def _spread(value: Json) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f}–{value['max']:.2f})"


def put_into(page: Path, markdown: str) -> None:
    """Replace what stands between the page's two marks. Raises ValueError when it has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n{markdown.rstrip()}\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Show a record, or put it into a page."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", metavar="RECORD")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="replace the table between the page's marks"
    )
    given = parser.parse_args(argv)
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in given.records]
    markdown = "\n".join(to_markdown(document) for document in merge(documents))
    if given.into is None:
        print(markdown)
    else:
        put_into(given.into, markdown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

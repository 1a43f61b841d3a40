"""What docs/paper-tables.md and the README show of `benchmarks/paper_tables.py`'s figures."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any


def paper_table(contents: Sequence[dict[str, Any]]) -> str:
    """Return ours beside the papers' as a Markdown table, then where the figures come from.

    Args:
        contents: Of one file, or of several, of which a later one's learners take the place of
            those of the same name before.
    """
    lines, results = _joined(contents), contents[0]["results"]
    on_cpu = "cpu_s" in results
    cost, said = ("cpu_s", "CPU s") if on_cpu else ("device_s", "training s")
    seconds = "CPU" if on_cpu else "Training"
    rows = [
        f"| learner | setting | ours | published | difference | outer steps | {said} | wall s |",
        "| --- " * 8 + "|",
    ]
    for line in lines:
        beside = line["published"]
        rows.append(
            f"| {line['title']} | {line['column']} | {line['accuracy']:.2f} ± {line['reach']:.2f}"
            f"{_seeds(line)} | "
            + "; ".join(_published(figure) for figure in beside)
            + " | "
            + "; ".join(f"{figure['difference']:+.2f} ({figure['verdict']})" for figure in beside)
            + f" | {_steps(line)} | {_range(line[cost])} | {_range(line['wall_s'])} |"
        )
    unchecked = any(not figure["checked"] for line in lines for figure in line["published"])
    episodes = min(line["episodes"] for line in lines)
    return "\n".join(
        [
            *rows,
            "",
            "T: transductive, by batch statistics over the queries."
            + (" ?: not seen in the paper's own table." if unchecked else ""),
            f"{_seeds_said(results['seeds'])}; {episodes} test episodes with "
            f"{results['query_images_per_class']} queries per class; split "
            f"{results['split']}. {seconds} seconds are those of the "
            "training, wall seconds those from its last start to the end of its scoring, beside "
            f"whatever else the machine did. {_in_all(contents, lines)}",
            "",
            *_papers(lines),
            "",
            *_sources(contents),
        ]
    )


SAME_IN_ALL = ("split", "seeds", "query_images_per_class", "device")


def _joined(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of several files; a learner of a later one takes the place of an earlier."""
    first = contents[0]["results"]
    by_title: dict[str, list[dict[str, Any]]] = {}
    for content in contents:
        results = content["results"]
        unlike = [key for key in SAME_IN_ALL if results.get(key) != first.get(key)]
        if unlike:
            raise ValueError(f"files of one table that differ in {', '.join(unlike)}")
        for title, lines in groupby(results["lines"], key=lambda line: str(line["title"])):
            by_title[title] = list(lines)
    return [line for lines in by_title.values() for line in lines]


def _sources(contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return by which command, of which commit and where each file was made."""
    said = [
        f"`{content['command']}`, commit `{content['commit'][:12]}`, {_machine(content)}."
        for content in contents
    ]
    if len(contents) == 1:
        return said
    last = {
        line["title"]: number
        for number, content in enumerate(contents)
        for line in content["results"]["lines"]
    }
    titles = [[title for title, of in last.items() if of == n] for n in range(len(contents))]
    names = ["All but those that follow", *(" and ".join(of_one) for of_one in titles[1:])]
    return [
        f"- {name}: {source}"
        for name, shown, source in zip(names, titles, said, strict=True)
        if shown
    ]


def _machine(content: dict[str, Any]) -> str:
    """Return what the figures were made on."""
    device = content["results"].get("device", "cpu")
    machine: str = content["machine"]
    return machine if device == "cpu" else f"{device}, {machine}"


def short_table(contents: Sequence[dict[str, Any]]) -> str:
    """Return a row for each learner, ours and in brackets the papers', and the sources."""
    lines = _joined(contents)
    columns = list(dict.fromkeys(line["column"] for line in lines))
    table = [
        "| learner | " + " | ".join(columns) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]
    for title in dict.fromkeys(line["title"] for line in lines):
        found = [line for line in lines if line["title"] == title]
        cells = [
            "".join(_short(line) for line in found if line["column"] == column)
            for column in columns
        ]
        table.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([*table, "", *_sources(contents), "", _in_all(contents, lines)])


def _short(line: dict[str, Any]) -> str:
    """Return ours with its interval, and the published figures without theirs."""
    published = ", ".join(_published(figure | {"reach": None}) for figure in line["published"])
    beside = f" ({published})" if published else ""
    return f"{line['accuracy']:.1f} ± {line['reach']:.1f}{beside}"


def _in_all(contents: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> str:
    """Return what all lines took; the wall time of a run that was resumed would tell nothing."""
    results = contents[0]["results"]
    wall_s, workers = results["wall_s"], results["workers"]
    wall = f"{wall_s:.0f} s on {workers} processes" if wall_s and len(contents) == 1 else ""
    if "cpu_s" not in results:
        return f"All of it took {wall}." if wall else ""
    trainings = {
        (line["title"], *line["steps"], *line["cpu_s"]): sum(line["cpu_s"] + line["scoring_cpu_s"])
        for line in lines  # of one training there is a line for each column
    }
    return f"All of it took {sum(trainings.values()):.0f} CPU s{f' and {wall}' if wall else ''}."


def _published(figure: dict[str, Any]) -> str:
    """Return a figure with as many digits as the paper gives."""
    text = f"{figure['accuracy']:g}"
    if figure["reach"] is not None:
        text += f" ± {figure['reach']:g}"
    return text + (" T" if figure["transductive"] else "") + ("" if figure["checked"] else " ?")


def _seeds(line: dict[str, Any]) -> str:
    by_seed = line["by_seed"]
    return f" (seeds {min(by_seed):g} to {max(by_seed):g})" if len(by_seed) > 1 else ""


def _seeds_said(seeds: int) -> str:
    return "One seed" if seeds == 1 else f"Mean of {seeds} seeds"


def _steps(line: dict[str, Any]) -> str:
    """Return the steps taken; fewer than planned where the CPU seconds were used up."""
    fewest, planned = min(line["steps"]), line["planned_steps"]
    return f"{planned:,}" if fewest == planned else f"{fewest:,} of {planned:,}, then the budget"


def _range(seconds: Sequence[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{low:.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}"


def _papers(lines: Sequence[dict[str, Any]]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for line in lines:
        found = sources.setdefault(line["title"], [])
        for figure in line["published"]:
            said = f"{figure['method']}: {figure['source']}"
            if said not in found:
                found.append(said)
    return [f"- {title}: {'; '.join(found)}" for title, found in sources.items() if found]

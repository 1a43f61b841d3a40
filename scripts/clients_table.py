"""The federated table of docs/paper-tables.md, from `benchmarks/federated_table.py`'s figures."""

from typing import Any


def clients_table(content: dict[str, Any]) -> str:
    """Return accuracies at new clients as a Markdown table, then where the figures come from."""
    results = content["results"]
    lines = results["lines"]
    shots = sorted({line["shots"] for line in lines})
    heads = [f"{k}-shot | against {results['baseline']}" for k in shots]
    table = [
        "| learner | " + " | ".join(heads) + " | CPU s |",
        "| --- " * (2 + 2 * len(shots)) + "|",
    ]
    for title in dict.fromkeys(line["title"] for line in lines):
        of_title = {line["shots"]: line for line in lines if line["title"] == title}
        cells = [_cell(of_title[k]) if k in of_title else " | " for k in shots]
        seconds = [max(line["cpu_s"]) for line in of_title.values()]
        table.append(f"| {title} | " + " | ".join(cells) + f" | {max(seconds):.0f} |")
    seeds = results["seeds"]
    said = "One seed" if seeds == 1 else f"Mean of {seeds} seeds"
    rounds = max(max(line["rounds"]) for line in lines)
    return "\n".join(
        [
            *table,
            "",
            f"Right answers in per cent, mean ± 1.96 sd / √n over {results['scored_clients']} new "
            f"clients, at each the mean of {results['draws_per_client']} draws of a support set "
            f"with {results['query_images_per_class']} queries per character; differences are "
            f"paired by client. Guessing: {results['chance']:.1f}. {said}; {rounds} rounds with "
            f"{results['clients_per_round']} of {results['training_clients']} clients. CPU seconds "
            "are those of one training, the longest of a row.",
            "",
            f"`{content['command']}`, commit `{content['commit'][:12]}`, {content['machine']}.",
        ]
    )


def _cell(line: dict[str, Any]) -> str:
    by_seed, gain = line["by_seed"], line["gain"]
    seeds = f" (seeds {min(by_seed):g} to {max(by_seed):g})" if len(by_seed) > 1 else ""
    against = "" if gain is None else f"{gain['accuracy']:+.2f} ± {gain['reach']:.2f}"
    return f"{line['accuracy']:.2f} ± {line['reach']:.2f}{seeds} | {against}"

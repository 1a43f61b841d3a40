"""The audit as JSON and as one HTML page without scripts or requests."""

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from metaward.whole_file import write_atomically
from metaward_client.privacy_audit.findings import Audit, Verdict

if TYPE_CHECKING:
    import torch

    from metaward_client.privacy_audit.run import Pictures

WIDEST = 5.0
"""Ratio at which the plot of the sensitivity ends; the figures are in the text."""
SCALE = 6
"""Page pixels per pixel of a small picture."""


def write_audit(audit: Audit, pictures: "Pictures", folder: Path) -> None:
    """Write ``audit.json`` and ``audit.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(audit.as_json(), indent=2, ensure_ascii=False)
    write_atomically(folder / "audit.json", content + "\n")
    write_atomically(folder / "audit.html", render_page(audit, pictures))


def render_page(audit: Audit, pictures: "Pictures") -> str:
    """Return the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metaward_client.privacy_audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tested = [f for f in audit.findings if f.verdict is not Verdict.NOT_SHOWN]
    return environment.get_template("audit.html.j2").render(
        audit=audit,
        n_tested=len(tested),
        plots=_plots(audit, pictures),
        images={name: _data_uri(image) for name, image in pictures.images.items()}
        if audit.synthetic
        else {},
        scale=SCALE,
    )


def _plots(audit: Audit, pictures: "Pictures") -> list[str]:
    plots = [_ratio_plot(audit)]
    if pictures.attacks is not None:
        plots.append(_roc_plot(pictures))
    return plots


def _ratio_plot(audit: Audit) -> str:
    from metaward.report.svg import INK, SERIES, drawing, to_svg

    rows = [f for f in audit.findings if f.check.startswith("sensitivity")][::-1]
    with drawing(4.6, 2.8) as (figure, axes):
        worst = [min(max(f.figures.values()), WIDEST) for f in rows]  # may be infinite
        axes.barh(range(len(rows)), worst, color=SERIES[0], height=0.6)
        axes.set_yticks(range(len(rows)), [f.check.removeprefix("sensitivity, ") for f in rows])
        axes.axvline(1.0, color=INK, linewidth=1)
        axes.set_xlim(0, max(1.1, *worst) if worst else 1.1)
        axes.set_xlabel("change by one patient / claimed at most")
        axes.set_title("Sensitivity")
        figure.tight_layout()
        alt = "Bars: the worst change by one patient for each learner; the line is the claim."
        return to_svg(figure, name="sensitivity", alt=alt)


def _roc_plot(pictures: "Pictures") -> str:
    from metaward.report.svg import DASHES, MUTED, SERIES, drawing, to_svg

    assert pictures.attacks is not None
    with drawing(3.7, 2.8) as (figure, axes):
        for number, (name, result) in enumerate(
            zip(("without a mechanism", "as released"), pictures.attacks, strict=True)
        ):
            axes.plot(
                result.false_rates,
                result.true_rates,
                color=SERIES[number],
                linestyle=DASHES[number],
                label=name,
            )
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        axes.set_xlabel("false alarms")
        axes.set_ylabel("members found")
        axes.set_title("Membership inference")
        axes.legend(frameon=False, loc="lower right")
        figure.tight_layout()
        alt = "ROC curves of the attack without a mechanism and on the release; diagonal: guessing."
        return to_svg(figure, name="membership", alt=alt)


def _data_uri(image: "torch.Tensor") -> str:
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    grey = ((image - low) / max(high - low, 1e-12) * 255).byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

"""The page tells promise, claim, evidence and limits, and holds nothing of a patient."""

import json
from pathlib import Path

import pytest
import torch

from metaward.errors import PrivacyError
from metaward_client.privacy.terms import Relation
from metaward_client.privacy_audit.findings import Audit, Finding, Verdict
from metaward_client.privacy_audit.page import render_page, write_audit
from metaward_client.privacy_audit.run import Pictures
from metaward_client.privacy_audit.sensitivity import sensitivity_finding
from metaward_client.privacy_command import require_passed


def finding(verdict: Verdict, check: str = "sensitivity, x", value: float = 0.5) -> Finding:
    return Finding(check, "Can <one> do it?", "Tried & tried.", "Seen.", verdict, {"a": value})


def audit_of(*findings: Finding, synthetic: bool = True) -> Audit:
    return Audit("Drawn.", synthetic, "We promise.", {"unit": "patient"}, findings, ("Not all.",))


def test_the_page_is_self_contained_and_escapes_what_it_is_told() -> None:
    page = render_page(audit_of(finding(Verdict.PASS)), Pictures())
    assert "Can &lt;one&gt; do it?" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "withstood all 1 checks" in page
    for part in ("Promise", "Claim", "Evidence", "Limits", "We promise.", "Not all."):
        assert part in page


def test_a_failed_check_is_the_first_thing_that_the_page_says_and_stops_the_command() -> None:
    failed = audit_of(finding(Verdict.PASS), finding(Verdict.FAIL, "noise scale"))
    page = render_page(failed, Pictures())
    assert "1 of 2 checks FAILED" in page
    assert "withstood" not in page
    with pytest.raises(PrivacyError, match="noise scale") as caught:
        require_passed(failed)
    assert caught.value.exit_code == 4
    require_passed(audit_of(finding(Verdict.PASS), finding(Verdict.NOT_SHOWN)))


def test_a_figure_that_proves_nothing_is_not_counted_as_a_check() -> None:
    page = render_page(
        audit_of(finding(Verdict.PASS), finding(Verdict.NOT_SHOWN, "dlg")), Pictures()
    )
    assert "withstood all 1 checks" in page
    assert "a figure, no proof" in page


def test_sums_that_nobody_moved_are_not_called_small() -> None:
    moved, still = (
        sensitivity_finding("x", {"sum": ratio}, Relation.ADD_OR_REMOVE_ONE) for ratio in (0.5, 0.0)
    )
    assert moved.seen.startswith("The largest change was 0.5000 of what")
    assert still.seen.startswith("That patient changed nothing: ")


def test_pictures_are_shown_of_drawn_data_only() -> None:
    pictures = Pictures(images={"the image": torch.rand(16, 16)})
    assert "data:image/png" in render_page(audit_of(finding(Verdict.PASS)), pictures)
    of_patients = audit_of(finding(Verdict.PASS), synthetic=False)
    assert "data:image" not in render_page(of_patients, pictures)


def test_the_json_says_the_same_and_is_valid_where_a_figure_is_infinite(tmp_path: Path) -> None:
    broken = audit_of(finding(Verdict.FAIL, value=float("inf")))
    write_audit(broken, Pictures(), tmp_path / "new" / "folder")
    said = json.loads((tmp_path / "new" / "folder" / "audit.json").read_text())
    assert said["verdict"] == "fail"
    assert said["findings"][0]["figures"] == {"a": None}
    assert (tmp_path / "new" / "folder" / "audit.html").exists()

"""The product's clip, sum, sample and noise as one function of units' vectors, for statistics.

A statistical check asks for thousands of releases, so it brings vectors instead of images. The
code that clips, sums and adds noise is the product's, and does not know the difference.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metaward.privacy_promise import DP_SGD
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums, Normals
from metaward_client.privacy.poisson import poisson_sample
from metaward_client.privacy.terms import Terms

Release = Callable[[NDArray[np.float64], Normals], NDArray[np.float64]]
"""Records' vectors (n_patients, n_records, dimensions) and a source -> what is let out, (dim.,)."""

AUDIT_NOISE = 3.0
"""sigma of the statistical checks: one release over everybody then costs an epsilon of 1.3 at a
delta of 1e-5. Audits say most at a small epsilon."""
AUDIT_NORM = 1.0
AUDIT_DIVISOR = 50.0


def audit_terms(*, adaptive_clipping: bool = False) -> Terms:
    """Return the terms of the statistical checks: one sum over everybody."""
    return Terms(
        DP_SGD, AUDIT_NOISE, 1.0, 1, AUDIT_NORM, AUDIT_DIVISOR, adaptive_clipping=adaptive_clipping
    )


def product_release(terms: Terms) -> Release:
    """Return the product's release; a patient's vector is the mean over the patient's records."""

    def release(records: NDArray[np.float64], source: Normals) -> NDArray[np.float64]:
        shapes = {"leaf": (records.shape[2],)}
        drawn = poisson_sample(len(records), terms.sample_rate, source)
        total = ClippedSum.empty(shapes, terms.max_grad_norm)
        if len(drawn):
            total.add({"leaf": records[drawn].mean(axis=1)})
        return NoisedSums(terms, source, terms.max_grad_norm).release(total, shapes)["leaf"]

    return release

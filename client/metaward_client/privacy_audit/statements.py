"""What an audit says beside its findings: what was promised, on which figures, and its limits."""

from metaward_client.privacy.accountant import accountant_name, epsilon
from metaward_client.privacy.policy import ProtectedSettings, statement_of_relation

LIMITS = (
    "An audit can find a broken promise; it cannot prove a kept one. The proof is in the text on "
    "the mechanisms, and it holds for real numbers, not for floating point.",
    "The audit runs the installed code on this machine. It cannot see other software, somebody "
    "who reads the hospital's disk, or code that knows that it is audited.",
    "It computes on this machine's processor. Rounds that a site computes on an accelerator are "
    "not audited there.",
    "The statistical checks use vectors of their own and one sum over everybody, at a small "
    "epsilon where such checks see most; the policy's own numbers enter through the accountant.",
    "An epsilon a little above the claim would not be noticed: the one-run audit misses noise of "
    "half the size, which the noise scale and the two-world test find.",
    "Membership inference and gradient inversion are figures of two attacks, not of all.",
    "Size and existence of a hospital, and the time an answer takes, are outside the promise.",
)


def promise(policy: ProtectedSettings) -> str:
    """Return the promise in one sentence."""
    return (
        "Whoever sees everything that leaves this hospital, over all rounds, studies and "
        f"restarts, learns at most epsilon {policy.target_epsilon:g} at delta "
        f"{policy.target_delta:g} about any one patient, all images of the patient together."
    )


def claim(policy: ProtectedSettings) -> dict[str, str]:
    """Return the figures that the promise rests on."""
    terms = policy.terms()
    one = epsilon(terms.per_round(), target_delta=policy.target_delta, relation=terms.relation)
    return {
        "mechanism": policy.label,
        "unit": policy.unit,
        "neighbouring data sets": statement_of_relation(policy),
        "sampling": f"Poisson, rate {terms.sample_rate:g}",
        "noise": f"{terms.noise_multiplier:g} times the clip norm {terms.max_grad_norm:g}",
        "noised sums per round": str(terms.steps),
        "one round alone": f"epsilon {one:.3f} at delta {policy.target_delta:g}",
        "all rounds together": f"epsilon at most {policy.target_epsilon:g}, by the ledger",
        "accountant": accountant_name(),
    }

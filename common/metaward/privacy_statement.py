"""What may be said of the records behind a model, in the words that its card and report use."""

from collections.abc import Iterable

from pydantic import Field

from metaward.config import Settings
from metaward.patterns import NAME, SHA256
from metaward.privacy_promise import IN_WORDS, NO_MECHANISM, PrivacyPromise

MAX_PROMISE = 4000
"""Characters of what is said of a start; what was said of that one's own start is part of it."""


class StartStatement(Settings):
    """What is said of the model that training began from, and of the records behind it."""

    study: str = Field(pattern=NAME)
    parameters_sha256: str = Field(pattern=SHA256)
    promise: str = Field(max_length=MAX_PROMISE, description="its own privacy statement, in words")

    @property
    def sentence(self) -> str:
        """The statement in words."""
        return (
            f"Training began from the model of study {self.study} "
            f"({self.parameters_sha256[:12]}…), of which is said: {self.promise}"
        )


class PrivacyStatement(Settings):
    """What is promised about the records that a model learned from.

    Without a mechanism it promises nothing: the model may reveal single patients.
    """

    mechanism: str = Field(NO_MECHANISM, description="how deltas were made private")
    unit: str = Field("none", description="what one unit of privacy protects: patient or image")
    neighbouring: str = Field("", description="neighbouring relation, e.g. add or remove one")
    sampling: str = Field("", description="how records enter a batch, e.g. Poisson")
    accountant: str = ""
    epsilon: float | None = Field(None, ge=0, description="at most, at any site")
    target_delta: float | None = Field(None, gt=0, lt=1)
    start: StartStatement | None = Field(None, description="of the model that training began from")

    @property
    def is_private(self) -> bool:
        """True when a mechanism stands behind the statement."""
        return not self.mechanism.startswith("none")

    @property
    def sentence(self) -> str:
        """The statement in words, with all that an epsilon means nothing without."""
        if self.start is None:
            return self._own_sentence
        return f"{self._own_sentence} {self.start.sentence}"

    @property
    def _own_sentence(self) -> str:
        if not self.is_private:
            return "NOT PRIVATE: the deltas carried no differential privacy."
        loss = "unknown" if self.epsilon is None else f"{self.epsilon:.2f}"
        delta = "" if self.target_delta is None else f" at delta {self.target_delta:.1e}"
        return (
            f"Per {self.unit}, epsilon {loss}{delta} at most, at every hospital "
            f"({self.mechanism}; {self.neighbouring}; {self.sampling} sampling; {self.accountant})."
        )


def joint_statement(promises: Iterable[PrivacyPromise]) -> PrivacyStatement:
    """Return what may be said of a model that learned from all these hospitals.

    The largest epsilon and the largest delta hold at each of them. One hospital without a
    mechanism makes the model NOT PRIVATE, and so does no promise at all.
    """
    private = [
        (promise, promise.target_epsilon, promise.target_delta)
        if promise.target_epsilon is not None and promise.target_delta is not None
        else None
        for promise in promises
    ]
    known = [one for one in private if one is not None]
    if not known or len(known) < len(private):
        return PrivacyStatement()
    return PrivacyStatement(
        mechanism=_joined(IN_WORDS[promise.mechanism] for promise, _, _ in known)
        + ", as the hospitals say",
        unit="patient",
        neighbouring=_joined(promise.neighbouring for promise, _, _ in known),
        sampling="Poisson",
        accountant="each hospital's own ledger, all its studies together",
        epsilon=max(epsilon for _, epsilon, _ in known),
        target_delta=max(delta for _, _, delta in known),
    )


def _joined(words: Iterable[str]) -> str:
    return " or ".join(sorted(set(words)))

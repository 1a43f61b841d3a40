"""The one door: everything that a site lets out about its data is an ``Update`` made here.

A test reads the syntax trees of all packages and fails when an ``Update`` is built elsewhere at a
site. What goes through has either been noised and charged (:func:`charged_delta`), or leaves under
a policy that says NOT PRIVATE.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from metaward.arrays import Arrays, to_arrays, to_tensors
from metaward.device import require_provable
from metaward.errors import PrivacyError
from metaward.meta.compose import build_learner, build_noised_learner
from metaward.meta.noised import NoisedWork
from metaward.models.build import build_body
from metaward.privacy_promise import PrivacyPromise
from metaward.study import Study
from metaward.tasks import Task
from metaward.wire import Update
from metaward_client.privacy.block_release import block_release
from metaward_client.privacy.cohort import Cohort
from metaward_client.privacy.dp_sgd import PatientAnswers
from metaward_client.privacy.ledger import Ledger, Replay, RoundId
from metaward_client.privacy.noised_sum import NoisedSums, Normals
from metaward_client.privacy.patient_gradients import refuse_shared_statistics, require_rules
from metaward_client.privacy.policy import (
    BlockPolicy,
    DpSgdPolicy,
    NoPrivacy,
    ProtectedSettings,
)
from metaward_client.privacy.round_memory import RoundMemory
from metaward_client.privacy.stored_reply import CLOSED, decode_reply, encode_reply
from metaward_client.privacy.terms import Terms

BLOCK_KEY = b"metaward: patients to blocks"
"""Purpose of the key that the ledger's secret is turned into."""


@dataclass(frozen=True)
class AskedRound:
    """What a coordinator asked of this site, after it was read and checked.

    Attributes:
        study: The study.
        round_index: From 0.
        theta: The meta-parameters, finite.
        seed: Public seed of this site and round: from study, site's name and round.
        site_seed: Public seed of this site in this study, the same in every round.
    """

    study: Study
    round_index: int
    theta: Arrays
    seed: tuple[int, ...]
    site_seed: int

    def rng(self) -> np.random.Generator:
        """Return the public random stream of this site and round."""
        return np.random.default_rng(np.random.SeedSequence(list(self.seed)))


@dataclass(frozen=True)
class Released:
    """An update, and what the site notes for itself.

    Attributes:
        update: All that may leave.
        loss: Mean loss on the site's own images; stays here. nan where it is not known.
        replayed: The round was answered before; these are the same bytes.
    """

    update: Update
    loss: float = field(default=float("nan"))
    replayed: bool = False


def release(
    asked: AskedRound,
    load_task: Callable[[], Task],
    policy: NoPrivacy | ProtectedSettings,
    source: Normals,
) -> Released:
    """Compute what the round asks for, in the form that the site's policy lets out.

    Args:
        asked: The round.
        load_task: Gives the site's task; called after the round was charged.
        policy: The hospital's own.
        source: Of noise and samples; in production the operating system's.

    Raises:
        PrivacyError: Policy or ledger forbid it, or the delta is not finite. Nothing leaves.
        ConfigError: The study's learner cannot work under the mechanism. Nothing is charged.
        DataError: Without a mechanism: the data cannot give what the learner needs.
    """
    match policy:
        case NoPrivacy():
            delta, loss, replayed = *_plain_delta(asked, load_task()), False
            promise = PrivacyPromise()
        case _:
            delta, loss, replayed, promise = charged_delta(asked, load_task, policy, source)
    _require_finite(delta, asked)
    update = Update(asked.study.digest(), asked.round_index, delta, promise)
    return Released(update, loss, replayed)


def charged_delta(
    asked: AskedRound,
    load_task: Callable[[], Task],
    policy: ProtectedSettings,
    source: Normals,
) -> tuple[Arrays, float, bool, PrivacyPromise]:
    """Reserve, work, commit: return the noised delta, the loss, whether it is a replay, a promise.

    The charge is on the disk before a patient is drawn, and the answer is on the disk before it
    can be sent. The three counts (charged, noised, released) are compared before the commit. A
    round that fails with an error once patients may have been drawn is closed for good: see
    :mod:`metaward_client.privacy.stored_reply`. Where the process is told to end, or the disk takes
    no commit, the charge stands and the round is worked on again.
    """
    # a study that cannot be run costs nothing
    body = build_body(asked.study.model, asked.study.seed)
    refuse_shared_statistics(body)
    if isinstance(policy, DpSgdPolicy):
        require_rules(body)
        build_noised_learner(asked.study.learner, policy.steps_per_round)
    round_ = RoundId(asked.study.digest(), asked.round_index)
    terms = policy.terms()
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        answer = ledger.reserve(round_, terms, policy.budget, max_rounds=policy.rounds)
        promise = _promise(ledger.state.studies[round_.study].terms, ledger)
        if isinstance(answer, Replay):
            return decode_reply(answer.reply, asked.theta), float("nan"), True, promise
        memory = RoundMemory.read(answer.memory)
        sums = NoisedSums(terms, source, memory.start_norm(policy))
        task = load_task()  # what fails here is the same each time: nobody is drawn yet
        require_provable(policy.mechanism, str(task.device))

        def left() -> bytes | None:
            return memory.written(sums.max_grad_norm if policy.adaptive_clipping else None)

        try:
            delta, loss = _private_delta(asked, task, policy, sums, memory, ledger)
            sums.require_complete()
            _require_finite(delta, asked)
        except Exception:
            ledger.commit(answer, CLOSED, left())
            raise
        ledger.commit(answer, encode_reply(delta), left())
    return delta, loss, False, promise


def _promise(terms: Terms, ledger: Ledger) -> PrivacyPromise:
    """Return what the ledger enforces: constants, and true of every answer it has ever stored."""
    state = ledger.state
    return PrivacyPromise(
        mechanism=terms.mechanism,
        target_epsilon=state.budget.target_epsilon,
        target_delta=state.budget.target_delta,
        neighbouring=state.relation_with(terms).value,
    )


def _plain_delta(asked: AskedRound, task: Task) -> tuple[Arrays, float]:
    result = build_learner(asked.study.learner).local_delta(
        build_body(asked.study.model, asked.study.seed),
        to_tensors(asked.theta, task.device),
        task,
        asked.rng(),
    )
    return to_arrays(result.delta), result.loss


def _private_delta(
    asked: AskedRound,
    task: Task,
    policy: ProtectedSettings,
    sums: NoisedSums,
    memory: RoundMemory,
    ledger: Ledger,
) -> tuple[Arrays, float]:
    match policy:
        case DpSgdPolicy():
            return _noised_delta(asked, task, policy, sums, memory)
        case BlockPolicy():
            delta = block_release(
                build_body(asked.study.model, asked.study.seed),
                to_tensors(asked.theta, task.device),
                task,
                build_learner(asked.study.learner),
                sums,
                blocks=policy.n_blocks,
                block_key=ledger.derived_key(BLOCK_KEY),
                seed=asked.seed,
            )
            return delta, float("nan")


def _noised_delta(
    asked: AskedRound, task: Task, policy: DpSgdPolicy, sums: NoisedSums, memory: RoundMemory
) -> tuple[Arrays, float]:
    body = build_body(asked.study.model, asked.study.seed)
    answers = PatientAnswers(
        body,
        Cohort.of(task, policy.labels),
        sums,
        images_per_patient=policy.images_per_patient,
        augment=asked.study.learner.augment,
        memory=memory,
    )
    work = NoisedWork(
        n_labels=len(policy.labels),
        steps=policy.steps_per_round,
        answers=answers,
        head_seed=asked.site_seed,
        rng=asked.rng(),
    )
    learner = build_noised_learner(asked.study.learner, policy.steps_per_round)
    return to_arrays(learner.noised_delta(body, to_tensors(asked.theta), work)), answers.loss


def _require_finite(delta: Arrays, asked: AskedRound) -> None:
    for name, array in delta.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise PrivacyError(
                "a delta with values that are not finite float32 numbers",
                expected="finite float32 numbers",
                where=f"round {asked.round_index}, array {name}",
                next_step="Lower the learner's step size; nothing was sent.",
            )

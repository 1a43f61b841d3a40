"""One audit from data to findings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from metaward.meta.noised import public_head
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_promise import BLOCK, DP_SGD
from metaward.tasks import Task
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy.patient_gradients import refuse_shared_statistics
from metaward_client.privacy.poisson import poisson_sample
from metaward_client.privacy.policy import ProtectedSettings
from metaward_client.privacy.terms import Relation, Terms
from metaward_client.privacy_audit import company, inversion, membership, noise_scale, sampling
from metaward_client.privacy_audit.findings import Audit, Finding
from metaward_client.privacy_audit.one_run import one_run_finding, one_run_lower_bound
from metaward_client.privacy_audit.product_site import product_site
from metaward_client.privacy_audit.released_sums import (
    ALL_LEARNERS,
    LEARNERS_OF_DP_SGD,
    TIGHT_NORM,
    block_sum,
    dp_sgd_sums,
)
from metaward_client.privacy_audit.self_audit import counts_of, self_audit_finding
from metaward_client.privacy_audit.sensitivity import sensitivity_finding, worst_ratio
from metaward_client.privacy_audit.shared_statistics import let_through, shared_statistics_finding
from metaward_client.privacy_audit.statements import LIMITS, claim, promise
from metaward_client.privacy_audit.two_worlds import (
    TEST_DELTA,
    two_world_finding,
    two_world_lower_bound,
)
from metaward_client.privacy_audit.unit_release import audit_terms, product_release
from metaward_client.privacy_audit.worlds import neighbouring_worlds, small_part

SENSITIVITY_PATIENTS = 13
MEMBERSHIP_PATIENTS = 24
ONE_RUN_DELTA = 1.0e-5


@dataclass(frozen=True)
class Effort:
    """How long each check works."""

    draws: int = 20_000
    releases: int = 20_000
    attacks: int = 400
    search_steps: int = 600

    @classmethod
    def quick(cls) -> "Effort":
        """Return what fits into some seconds."""
        return cls(draws=2_000, releases=2_000, attacks=120, search_steps=80)


@dataclass
class Pictures:
    """What the page draws beside the findings.

    Attributes:
        attacks: Attack without mechanism, attack on the private release.
        images: Name -> (size, size) image of the inversion; empty unless the data is drawn.
    """

    attacks: "tuple[membership.AttackResult, membership.AttackResult] | None" = None
    images: dict[str, torch.Tensor] = field(default_factory=dict)


def run_audit(
    task: Task,
    policy: ProtectedSettings,
    *,
    data: str,
    synthetic: bool,
    effort: Effort,
    on_check: Callable[[Finding], None],
    networks: Sequence[ModelSettings] = (),
    new_source: Callable[[], Normals] = os_noise,
    rng: np.random.Generator | None = None,
) -> tuple[Audit, Pictures]:
    """Run every check.

    Args:
        task: The data; at most a few dozen random patients of it are used.
        policy: Whose promise is audited.
        data: What the data is, in words.
        synthetic: Whether the audit drew it; only then pictures are kept.
        effort: How long.
        on_check: Told each finding when it is there.
        networks: Of the studies that the site takes part in; *company in a batch* is asked of each,
            with fewer filters.
        new_source: Of noise; the operating system's.
        rng: Of the audit's own choices; by default from the operating system.
    """
    rng = rng or np.random.default_rng()
    pictures = Pictures()
    side, channels = task.images.shape[-1], task.images.shape[1]
    model = ModelSettings(filters=8, groups=1, image_size=side, channels=3 if channels == 3 else 1)
    findings = []
    for finding in _checks(
        task, policy, model, effort, new_source, rng, pictures, synthetic, networks
    ):
        findings.append(finding)
        on_check(finding)
    return Audit(data, synthetic, promise(policy), claim(policy), findings, LIMITS), pictures


def _checks(
    task: Task,
    policy: ProtectedSettings,
    model: ModelSettings,
    effort: Effort,
    new_source: Callable[[], Normals],
    rng: np.random.Generator,
    pictures: Pictures,
    synthetic: bool,
    networks: Sequence[ModelSettings],
) -> Iterator[Finding]:
    body = build_body(model, 0)
    yield from _sensitivity(task, body, rng)
    yield shared_statistics_finding(let_through(refuse_shared_statistics))
    yield _company([model, *(small_like(other) for other in networks)])
    yield from _statistics(effort, new_source, rng)
    for mechanism in (DP_SGD, BLOCK):
        part = small_part(task, rng, SENSITIVITY_PATIENTS)
        with product_site(mechanism, model, part, new_source()) as site:
            yield self_audit_finding(mechanism, counts_of(site))
    yield _membership(task, body, policy, effort, new_source, rng, pictures)
    yield _inversion(task, policy, model, effort, new_source, rng, pictures if synthetic else None)


def _sensitivity(task: Task, body: Body, rng: np.random.Generator) -> Iterator[Finding]:
    worlds = neighbouring_worlds(small_part(task, rng, SENSITIVITY_PATIENTS), rng)
    as_found = worlds.present["as found"]
    relation = Relation.ADD_OR_REMOVE_ONE
    for learner in LEARNERS_OF_DP_SGD:
        ratios = {
            f"step {number}": worst_ratio(
                vector_sum, worlds, max_grad_norm=TIGHT_NORM, relation=relation
            )
            for number, vector_sum in enumerate(dp_sgd_sums(body, as_found, learner), start=1)
        }
        yield sensitivity_finding(f"{learner.name} under {DP_SGD}", ratios, relation)
    relation = Relation.REPLACE_ONE
    for any_learner in ALL_LEARNERS:
        ratio = worst_ratio(
            block_sum(body, any_learner), worlds, max_grad_norm=TIGHT_NORM, relation=relation
        )
        name = f"{any_learner.name} under {BLOCK}"
        yield sensitivity_finding(name, {"block sum": ratio}, relation)


def _company(models: Sequence[ModelSettings]) -> Finding:
    rng = np.random.default_rng(0)
    moved: dict[str, float] = {}
    for model in models:
        body, side = build_body(model, 0), model.image_size
        for what, vectors in company.product_vectors(body).items():
            name = f"{what}, {model.name} at {side} x {side}"
            found = company.most_moved(vectors, (model.channels, side, side), rng)
            moved[name] = max(found, moved.get(name, 0.0))
    return company.company_finding(moved)


def small_like(model: ModelSettings) -> ModelSettings:
    """Return a network as a study has it, but for its width, which would only take time."""
    return model.model_copy(update={"filters": 8, "groups": 1})


def _statistics(
    effort: Effort, new_source: Callable[[], Normals], rng: np.random.Generator
) -> Iterator[Finding]:
    terms = audit_terms()
    release = product_release(terms)
    adaptive = audit_terms(adaptive_clipping=True)
    yield noise_scale.noise_finding(
        {
            "empty sample": _noise(terms, new_source, patients=0),
            "patients that add zero": _noise(terms, new_source, patients=2),
            "adaptive clipping": _noise(adaptive, new_source, patients=0),
            "its bits": noise_scale.bits_noise_seen(adaptive, new_source),
        }
    )
    seen = sampling.samples_seen(poisson_sample, 0.2, new_source(), effort.draws)
    yield sampling.sampling_finding(seen, effort.draws)
    relation = Relation.ADD_OR_REMOVE_ONE
    claimed = epsilon(terms.per_round(), target_delta=ONE_RUN_DELTA, relation=relation)
    bound = one_run_lower_bound(release, new_source(), rng, target_delta=ONE_RUN_DELTA)
    yield one_run_finding(bound, claimed, ONE_RUN_DELTA)
    claimed = epsilon(terms.per_round(), target_delta=TEST_DELTA, relation=relation)
    bound = two_world_lower_bound(release, new_source(), releases=effort.releases)
    yield two_world_finding(bound, claimed, effort.releases)


def _noise(
    terms: Terms, new_source: Callable[[], Normals], *, patients: int
) -> noise_scale.NoiseSeen:
    from metaward_client.privacy.clip_norm import noise_shares

    share = noise_shares(terms.noise_multiplier, adaptive=terms.adaptive_clipping).vectors
    std = share * terms.max_grad_norm / terms.divisor
    return noise_scale.noise_seen(product_release(terms), new_source, std, patients=patients)


def _membership(
    task: Task,
    body: Body,
    policy: ProtectedSettings,
    effort: Effort,
    new_source: Callable[[], Normals],
    rng: np.random.Generator,
    pictures: Pictures,
) -> Finding:
    vectors = membership.patient_vectors(body, small_part(task, rng, MEMBERSHIP_PATIENTS))
    sigma, q, norm = policy.noise_multiplier, policy.sample_rate, policy.max_grad_norm
    terms = Terms(DP_SGD, sigma, q, 1, norm, divisor=1.0)
    source = new_source()
    plain = membership.attack(membership.plain_release, vectors, source, rng, runs=effort.attacks)
    private = membership.attack(product_release(terms), vectors, source, rng, runs=effort.attacks)
    pictures.attacks = (plain, private)
    return membership.membership_finding(plain, private)


def _inversion(
    task: Task,
    policy: ProtectedSettings,
    model: ModelSettings,
    effort: Effort,
    new_source: Callable[[], Normals],
    rng: np.random.Generator,
    pictures: Pictures | None,
) -> Finding:
    body = build_body(model.model_copy(update={"filters": 16}), 1)
    theta = body.initial_parameters()
    n_way = len(task.label_names)
    head = public_head(body.features, range(n_way), n_way, seed=0)
    row = int(rng.integers(task.n_images))
    image, label = task.take(np.array([row])), int(task.labels[row])
    raw = inversion.gradient_of(body, theta, head, image, label)
    private = inversion.private_gradient(
        raw, policy.noise_multiplier, policy.max_grad_norm, new_source()
    )
    guesses = [
        inversion.invert(
            body, theta, head, seen, label, tuple(image.shape), steps=effort.search_steps
        )
        for seen in (raw, private)
    ]
    if pictures is not None:
        names = ("the image", "from the raw gradient", "from the private release")
        pictures.images = dict(zip(names, (t[0].mean(0) for t in (image, *guesses)), strict=True))
    blank = inversion.psnr(image, torch.zeros_like(image))
    from_raw, from_private = (inversion.psnr(image, guess) for guess in guesses)
    return inversion.inversion_finding(from_raw, from_private, blank)

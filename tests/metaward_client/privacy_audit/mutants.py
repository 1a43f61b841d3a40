"""Mechanisms that are broken on purpose, each in one way that somebody has shipped."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call
from torch.nn import functional as F

from metaward.meta.noised import public_head
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task
from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.self_audit import AuditedSite
from metaward_client.privacy_audit.unit_release import AUDIT_DIVISOR, AUDIT_NOISE, Release

SIDE = 16
MODEL = ModelSettings(filters=4, groups=1, image_size=SIDE)
BODY = build_body(MODEL, 0)
NORM = 0.01
POPULATION = 20
Vector = NDArray[np.float64]
Leaves = dict[str, torch.Tensor]


def start(body: Body = BODY, n_labels: int = 3) -> Leaves:
    head = public_head(body.features, range(n_labels), n_labels, seed=0)
    return {**body.initial_parameters(), "weight": head.weight, "bias": head.bias}


def gradient(
    task: Task, rows: NDArray[np.int64], at: Leaves, weights: torch.Tensor | None = None
) -> Vector:
    """Return the gradient of the mean loss of some images, as one vector."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in at.items()}
    body = {name: leaf for name, leaf in leaves.items() if name not in ("weight", "bias")}
    features = functional_call(BODY, body, (task.take(rows),))
    logits = features @ leaves["weight"].T + leaves["bias"]
    each = F.cross_entropy(logits, torch.from_numpy(task.labels[rows]), reduction="none")
    loss = each.mean() if weights is None else (each * weights).mean()
    parts = torch.autograd.grad(loss, list(leaves.values()))
    return torch.cat([part.flatten() for part in parts]).double().numpy()


def moved(at: Leaves, step: Vector) -> Leaves:
    out, place = {}, 0
    for name, leaf in at.items():
        part = step[place : place + leaf.numel()]
        out[name] = leaf + torch.from_numpy(part.astype(np.float32)).reshape(leaf.shape)
        place += leaf.numel()
    return out


def clipped(vector: Vector) -> Vector:
    norm = float(np.linalg.norm(vector))
    return np.zeros_like(vector) if not np.isfinite(norm) else vector * min(1.0, NORM / norm)


def rows_of(task: Task) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(task.patients == number) for number in np.unique(task.patients)]


def patient_vectors(task: Task, at: Leaves) -> list[Vector]:
    return [clipped(gradient(task, rows, at)) for rows in rows_of(task)]


def weighted_sum(task: Task, weights: Vector) -> Vector:
    """Return the sum of clipped vectors, each multiplied with the weight of its patient's label."""
    of_patient = [weights[task.labels[rows[0]]] for rows in rows_of(task)]
    return np.asarray(of_patient @ np.array(patient_vectors(task, start())))


# --- sums: data set -> the sum that the noise is made for


def sound_sum(task: Task) -> dict[str, Vector]:
    return {"all": np.sum(patient_vectors(task, start()), axis=0)}


def record_level_clip(task: Task) -> dict[str, Vector]:
    one_by_one = [clipped(gradient(task, np.array([row]), start())) for row in range(task.n_images)]
    return {"all": np.sum(one_by_one, axis=0)}


def only_the_query_clipped(task: Task) -> dict[str, Vector]:
    """FOMAML whose inner step takes the raw gradient of the same patients."""
    everybody = np.arange(task.n_images)
    usable = everybody[np.isfinite(task.images).all(axis=(1, 2, 3))]
    phi = moved(start(), -0.5 * gradient(task, usable, start()))
    return {"all": np.sum(patient_vectors(task, phi), axis=0)}


def head_from_support(task: Task) -> dict[str, Vector]:
    """The head is the mean feature of each class, of all patients, without noise."""
    at = start()
    usable = np.flatnonzero(np.isfinite(task.images).all(axis=(1, 2, 3)))
    body = {name: leaf for name, leaf in at.items() if name not in ("weight", "bias")}
    features = functional_call(BODY, body, (task.take(usable),))
    labels = task.labels[usable]
    at["weight"] = torch.stack([features[labels == label].mean(0) for label in range(3)])
    return {"all": np.sum(patient_vectors(task, at), axis=0)}


def actual_batch_size(task: Task) -> dict[str, Vector]:
    vectors = patient_vectors(task, start())
    return {"all": np.sum(vectors, axis=0) / len(vectors) * POPULATION}


def averaged_gradient_clipped(task: Task) -> dict[str, Vector]:
    vectors = [gradient(task, rows, start()) for rows in rows_of(task)]
    return {"all": clipped(np.mean(vectors, axis=0)) * len(vectors)}


def class_weights_after_clipping(task: Task) -> dict[str, Vector]:
    counts = np.bincount(task.labels, minlength=3)
    total = [
        clipped(gradient(task, rows, start())) * task.n_images / (3 * counts[task.labels[rows[0]]])
        for rows in rows_of(task)
    ]
    return {"all": np.sum(total, axis=0)}


def class_weights_of_exact_counts(task: Task) -> dict[str, Vector]:
    """No weight is above 1, but the counts are exact: one patient moves all others of a label."""
    counts = np.bincount(task.labels, minlength=3)
    weights = np.minimum(1.0, counts.mean() / counts)
    return {"all": weighted_sum(task, weights)}


def rare_labels_weigh_more_than_one(task: Task) -> dict[str, Vector]:
    """Weights are public, but one is above 1 after the clip: inverse frequencies, in the mean 1."""
    frequency = np.array([0.6, 0.2, 0.2])
    weights = (1 / frequency) / np.sum(1 / frequency) * 3
    return {"all": weighted_sum(task, weights)}


def class_sums_of_images(task: Task) -> dict[str, Vector]:
    """Each image's vector has norm at most 1, but a patient adds all of them and not their mean."""
    usable = np.flatnonzero(np.isfinite(task.images).all(axis=(1, 2, 3)))
    with torch.no_grad():
        features = BODY(task.take(usable)).double()
    bounded = features / features.norm(dim=1, keepdim=True).clamp_min(BODY.features**0.5)
    total = torch.zeros(3, BODY.features, dtype=torch.float64)
    total.index_add_(0, torch.from_numpy(task.labels[usable]), NORM * bounded)
    return {"all": total.numpy().ravel()}


def no_clip(task: Task) -> dict[str, Vector]:
    finite = [
        vector
        for rows in rows_of(task)
        if np.isfinite(vector := gradient(task, rows, start())).all()
    ]
    return {"all": np.sum(finite, axis=0)}


def poisoned_by_what_is_no_number(task: Task) -> dict[str, Vector]:
    total = [
        (vector := gradient(task, rows, start())) * min(1.0, NORM / np.linalg.norm(vector))
        for rows in rows_of(task)
    ]
    return {"all": np.sum(total, axis=0)}


def one_stream_for_all(task: Task) -> dict[str, Vector]:
    """Images are chosen from one random stream, so a patient changes all who come later."""
    rng = np.random.default_rng(0)
    order = rows_of(task)[::-1]  # the patient who differs comes first
    total = [clipped(gradient(task, rng.permutation(rows)[:2], start())) for rows in order]
    return {"all": np.sum(total, axis=0)}


def batch_norm_sum(task: Task) -> dict[str, Vector]:
    """Per-patient gradients through statistics of the whole batch, in train mode."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2),
        torch.nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 49, 3),
    )
    usable = np.flatnonzero(np.isfinite(task.images).all(axis=(1, 2, 3)))
    logits = net(task.take(usable))
    each = F.cross_entropy(logits, torch.from_numpy(task.labels[usable]), reduction="none")
    total = 0.0
    for number in np.unique(task.patients[usable]):
        own = torch.from_numpy(task.patients[usable] == number)
        parts = torch.autograd.grad(each[own].mean(), list(net.parameters()), retain_graph=True)
        total = total + clipped(torch.cat([part.flatten() for part in parts]).double().numpy())
    return {"all": np.asarray(total)}


# --- releases: records' vectors -> what is let out


@dataclass(frozen=True)
class Recipe:
    """A release made by hand; the defaults are sound."""

    noise: Callable[[int], float] = lambda _n: 1.0
    per_record: bool = False
    clip: bool = True
    noise_on_empty: bool = True

    def __call__(self, records: Vector, source: Normals) -> Vector:
        n, _, dimensions = records.shape
        if n == 0 and not self.noise_on_empty:
            return np.zeros(dimensions)
        vectors = records.reshape(-1, dimensions) if self.per_record else records.mean(axis=1)
        if self.clip:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, 1.0)
        noise = self.noise(n) * AUDIT_NOISE * source.normals(dimensions)
        return (vectors.sum(axis=0) + noise) / AUDIT_DIVISOR


SOUND: Release = Recipe()
NO_NOISE: Release = Recipe(noise=lambda _n: 0.0)
NOISE_OVER_BATCH: Release = Recipe(noise=lambda n: 1 / max(n, 1))
HALF_NOISE: Release = Recipe(noise=lambda _n: 0.5)
NO_CLIP: Release = Recipe(clip=False)
RECORD_CLIP: Release = Recipe(per_record=True)
EMPTY_SKIPPED: Release = Recipe(noise_on_empty=False)


def noise_reused(records: Vector, source: Normals) -> Vector:
    return SOUND(records, NoiseSource(bytes(32)))


# --- samplers


def shuffled_batches(n: int, sample_rate: float, source: Normals) -> NDArray[np.int64]:
    return np.sort(np.argsort(source.uniforms(n))[: round(n * sample_rate)])


def class_balanced(n: int, sample_rate: float, source: Normals) -> NDArray[np.int64]:
    """As many of each of two classes, the second of which is a quarter of the units."""
    numbers, each = source.uniforms(n), round(n * sample_rate / 2)
    rare = np.arange(n - n // 4, n)
    common = np.arange(n - n // 4)
    picked = [group[np.argsort(numbers[group])[:each]] for group in (common, rare)]
    return np.sort(np.concatenate(picked))


def families_together(n: int, sample_rate: float, source: Normals) -> NDArray[np.int64]:
    return np.flatnonzero(np.repeat(source.uniforms(n // 2), 2) < sample_rate)


def two_who_avoid_each_other(n: int, sample_rate: float, source: Normals) -> NDArray[np.int64]:
    numbers = source.uniforms(n)
    numbers[1] = 1 - numbers[0]
    return np.flatnonzero(numbers < sample_rate)


# --- accounts


@dataclass
class PaperSite:
    """A site whose account is kept in memory; how it is kept is what a mutant changes."""

    steps: int = 3
    charge: int = 3
    reset_each_round: bool = False
    lost_at_restart: bool = False
    answers_anew: bool = False
    charged: int = 0
    noised: int = 0
    replies: dict[int, bytes] = field(default_factory=dict)

    def audited(self) -> AuditedSite:
        return AuditedSite(
            answer=self._answer,
            restart=self._restart,
            charged_steps=lambda: self.charged,
            noised_steps=lambda: self.noised,
            steps_per_round=self.steps,
        )

    def _answer(self, index: int) -> bytes:
        if index in self.replies and not self.answers_anew:
            return self.replies[index]
        self.charged = self.charge if self.reset_each_round else self.charged + self.charge
        self.noised += self.steps
        self.replies[index] = b"%d %d" % (index, self.noised)
        return self.replies[index]

    def _restart(self) -> None:
        if self.lost_at_restart:
            self.charged = 0

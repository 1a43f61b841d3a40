"""First-order MAML: the query gradient at the adapted parameters, applied to theta.

Finn, Abbeel and Levine 2017, arXiv:1703.03400, section 5.2 (the first-order approximation):

    delta = - mean over episodes of grad_phi L(phi_K; query)

The head is made from the support set, so it is a function of theta too. With zeros it adds
nothing; with prototypes it adds, to first order (d head_K / d head_0 = identity),

    - (d head_0 / d theta)^T grad_head L(phi_K, head_K; query)

(Triantafillou et al. 2020, arXiv:1903.03096, section 3). With no inner step that sum is exactly
the gradient of a prototypical network. A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import FomamlSettings
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import first_head
from metaward.meta.inner_loop import adapt_on_support, episode_loss, inner_loop
from metaward.meta.learner import Classifier, Learner, LocalResult, classifier_of, mean_result
from metaward.meta.noised import NoisedWork, descend, drawn_classes
from metaward.models.body import Body
from metaward.tasks import Task


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: FomamlSettings
) -> LocalResult:
    """Return minus the first-order meta-gradient of one episode, a direction to ADD to theta."""
    start = {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}
    support, query = episode.support, episode.query
    features = body.apply_with(start, support.images)
    first = first_head(settings.adapt.head, features, support.labels, support.n_way)

    batches = [support] * settings.inner_steps
    adapted = inner_loop(body, theta, first, batches, lr=settings.inner_lr)
    phi, head = adapted.phi, adapted.head

    loss = episode_loss(body, phi, head, query)
    *body_gradient, weight_gradient, bias_gradient = torch.autograd.grad(
        loss, [*phi.values(), head.weight, head.bias]
    )
    if first.weight.requires_grad:
        through_head = torch.autograd.grad(
            [first.weight, first.bias], list(start.values()), [weight_gradient, bias_gradient]
        )
        body_gradient = [a + b for a, b in zip(body_gradient, through_head, strict=True)]
    delta = {name: -gradient for name, gradient in zip(theta, body_gradient, strict=True)}
    return LocalResult(delta, float(loss.detach()))


@dataclass(frozen=True)
class Fomaml(Learner):
    """The learner: draws episodes from a site's task, averages their deltas."""

    settings: FomamlSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        episodes = draw_episodes(task, self.settings, rng)
        return mean_result(task_delta(body, theta, episode, self.settings) for episode in episodes)

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:
        """Return minus the noised gradient at the parameters that the other answers led to.

        The last answer is the query's: a fresh Poisson sample, noised and charged like the others,
        so a patient who is drawn for both has paid for both.
        """
        classes = drawn_classes(work.n_labels, self.settings.n_way, work.rng)
        adapted = descend(
            body, theta, classes, work, lr=self.settings.inner_lr, steps=work.steps - 1
        )
        query = work.answers.gradient(adapted, classes)
        return {name: -query.body[name] for name in theta}

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Fine-tune on the support set; see :class:`metaward.meta.learner.Learner`."""
        return classifier_of(body, adapt_on_support(body, theta, support, self.settings.adapt))

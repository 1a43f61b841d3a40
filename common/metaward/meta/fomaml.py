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

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import FomamlSettings
from metaward.meta.classifier import Classifier, kept_of
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.inner_loop import adapt_on_support, inner_loop, loss_and_gradient
from metaward.meta.learner import Learner, LocalResult, tracked
from metaward.meta.meta_batch import mean_over_episodes
from metaward.meta.meta_gradient import back_to_theta, minus, start_of
from metaward.meta.noised import NoisedWork, descend, drawn_classes
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: FomamlSettings
) -> LocalResult:
    """Return minus the first-order meta-gradient of one episode, a direction to ADD to theta."""
    start = start_of(body, tracked(theta), episode.support, settings.adapt.head)
    batches = [episode.support] * settings.inner_steps
    end = inner_loop(body, theta, start.head, batches, lr=settings.inner_lr)
    at = Parameters(end.phi, end.head).detached()
    loss, gradient = loss_and_gradient(body, at, episode.query)
    return LocalResult(minus(back_to_theta(start, gradient)), float(loss.detach()))


@dataclass(frozen=True)
class Fomaml(Learner):
    """The learner: draws episodes from a site's task, averages their deltas."""

    settings: FomamlSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        return mean_over_episodes(
            body,
            theta,
            draw_episodes(task, self.settings, rng),
            lambda leaves, episode: task_delta(body, leaves, episode, self.settings),
        )

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:
        """Return minus the noised gradient at the parameters that the other answers led to.

        Of one answer in a round none is left for an inner step, and the gradient is theta's own.
        The last answer is the query's: a fresh Poisson sample, noised and charged like the others,
        so a patient who is drawn for both has paid for both.
        """
        classes = drawn_classes(work.n_labels, self.settings.n_way, work.rng)
        adapted = descend(
            body, theta, classes, work, lr=self.settings.inner_lr, steps=work.steps - 1
        )
        query = work.answers.gradient(adapted, classes)
        return {name: -query[name] for name in theta}

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Fine-tune on the support set; see :class:`metaward.meta.learner.Learner`."""
        adapted = adapt_on_support(body, theta, support, self.settings.adapt)
        return self.classifier(body, theta, kept_of(adapted))

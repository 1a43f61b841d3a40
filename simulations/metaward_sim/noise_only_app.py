"""The control of a private study: hospitals without patients, whose updates are noise alone.

Same policy, same ledger, same mechanism, same noise; nobody to learn from. What a model gains from
such updates it owes to the noise, not to the patients. A ClientApp of the simulation's own, so that
the hospitals' software needs no switch that empties it.
"""

from dataclasses import replace

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from metaward.study import Study
from metaward.tasks import Task
from metaward_client.app import open_site
from metaward_client.site_work import SiteAtWork, answer_message

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer an order with an update of noise alone."""
    return answer_message(message, lambda: without_patients(open_site(context.node_config)))


def without_patients(site: SiteAtWork) -> SiteAtWork:
    """Return the site with the same policy and no patient."""

    def load_nobody(study: Study) -> Task:
        return site.load_task(study).without_patients()

    return replace(site, load_task=load_nobody)

"""A study as the people see it who have to agree to it."""

from importlib.metadata import version

from rich.console import Console
from rich.markup import escape

from metaward.bundle import bundle, digest_of
from metaward.study import Study
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.site_config import SiteConfig

SENT = (
    "in each round one parameter delta of the model's size, the round's number, the study's "
    "digest, and mechanism, relation, epsilon and delta that the ledger allows in all; or one "
    "number that says why not. No image, label, count, loss or metric."
)


def print_study(study: Study, config: SiteConfig, console: Console) -> None:
    """Print what a study does, what it costs, what leaves and which code runs."""
    model = study.model
    lines = {
        "Study": f"{study.name}, digest {study.digest()}",
        "Learner": f"{study.learner.name}, {study.rounds} rounds, outer step {study.outer.name}",
        "Model": f"{model.name}, {model.filters} filters, images of {model.image_size} x "
        f"{model.image_size} pixels, {model.channels} channel(s)",
        "Begins": f"from a model with parameters {study.start_sha256}, made before this study"
        if study.start_sha256
        else "from an untrained model",
        "Leaves": SENT,
        "Code": f"metaward {version('metaward')} as installed here; bundle SHA-256 "
        f"{digest_of(bundle())[:16]}; any other is refused",
        "Privacy": _privacy(study, config.privacy),
    }
    for name, text in lines.items():
        console.print(f"[bold]{name:<9}[/]{escape(text)}", soft_wrap=True, highlight=False)


def _privacy(study: Study, policy: NoPrivacy | ProtectedSettings | None) -> str:
    match policy:
        case None:
            return "no policy in site.yaml: every round is refused until there is one"
        case NoPrivacy():
            return "mechanism none: NOT PRIVATE. A delta can reveal single patients."
        case _:
            return _cost(study, policy)


def _cost(study: Study, policy: ProtectedSettings) -> str:
    """Return what the study costs out of what is left."""
    from metaward_client.privacy.accountant import plus
    from metaward_client.privacy.ledger import read_ledger
    from metaward_client.privacy.ledger import summary as summaries
    from metaward_client.privacy.ledger.snapshot import was_made

    if not was_made(policy.ledger, policy.witness):
        return "no ledger yet: every round is refused until `metaward site ledger create`"
    accounting = summaries.accounting_of_record()
    state = read_ledger(policy.ledger, policy.witness)
    now = summaries.summarise(state, policy.budget, policy.terms(), accounting)
    charged = len(state.studies[study.digest()].releases) if study.digest() in state.studies else 0
    rounds = max(0, min(study.rounds, policy.rounds) - charged)
    allowed = min(rounds, now.rounds_remaining)
    after = plus(state.spent, policy.terms().per_round(), allowed)
    spent = accounting.epsilon(after, now.budget.target_delta, now.relation)
    all_of_it = charged + allowed >= study.rounds
    partly = "" if all_of_it else f" (the budget allows {charged + allowed} of the rounds)"
    return (
        f"{policy.label}; epsilon {now.epsilon:.3f} of {now.budget.target_epsilon:g} is spent, "
        f"with this study {spent:.3f}{partly}; delta {now.budget.target_delta:g}; unit patient; "
        f"{now.relation}; Poisson sampling; {now.accountant}"
    )

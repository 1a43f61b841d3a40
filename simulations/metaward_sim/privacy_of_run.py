"""Privacy in a simulation: each hospital's policy, its own ledger, and what it has spent.

A simulated hospital goes through the same door, mechanism and ledger as a real one. What a person
at the hospital would decide (population, labels, noise for the rounds ahead) is decided here, from
what the simulation can see and a hospital's engineer would know.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from metaward.config import validate_settings
from metaward.learner_settings import LearnerSettings
from metaward.privacy_promise import BLOCK
from metaward.privacy_statement import PrivacyStatement
from metaward.tasks import Task
from metaward.whole_file import write_atomically
from metaward_client.privacy.accountant import accountant_name, epsilon
from metaward_client.privacy.calibration import noise_multiplier_for
from metaward_client.privacy.ledger import Ledger, read_ledger
from metaward_client.privacy.ledger.journal import LEDGER_FILE
from metaward_client.privacy.policy import (
    NoPrivacy,
    PolicyFile,
    ProtectedSettings,
    read_policy_file,
)
from metaward_client.privacy.terms import Relation
from metaward_sim.privacy_choice import PrivacyChoice
from metaward_sim.recommended import recommended_blocks

POLICIES_FOLDER = "policies"
LEDGERS_FOLDER = "ledgers"
WITNESS_FOLDER = "witness"

Policy = NoPrivacy | ProtectedSettings


def policies_of(
    choice: PrivacyChoice | None,
    tasks: Mapping[str, Task],
    *,
    learner: LearnerSettings,
    rounds: int,
) -> dict[str, Policy]:
    """Return what each hospital's policy says about a study of this learner and so many rounds.

    All hospitals have the same budget and noise, and the divisor of their own population.

    Raises:
        ConfigError: No policy may say so; a ``target_delta`` too large for a hospital's patients.
        PrivacyError: No noise fits so many rounds into the budget.
    """
    if choice is None:
        return {name: NoPrivacy() for name in tasks}
    populations = {
        name: choice.population or round_up(task.n_patients) for name, task in tasks.items()
    }
    target_delta = choice.target_delta or 1 / (10 * max(populations.values()))
    noise = choice.noise_multiplier or noise_multiplier_for(
        rounds=rounds,
        steps=1 if choice.mechanism == BLOCK else choice.sums_for(learner),
        sample_rate=choice.sample_rate,
        target_epsilon=choice.target_epsilon,
        target_delta=target_delta,
        relation=Relation.REPLACE_ONE if choice.mechanism == BLOCK else Relation.ADD_OR_REMOVE_ONE,
    )
    return {
        name: _policy(choice, learner, task, populations[name], target_delta, noise)
        for name, task in tasks.items()
    }


def _policy(
    choice: PrivacyChoice,
    learner: LearnerSettings,
    task: Task,
    population: int,
    target_delta: float,
    noise: float,
) -> ProtectedSettings:
    own: dict[str, Any]  # Any: the settings check their own types
    common: dict[str, Any] = {
        "mechanism": choice.mechanism,
        "target_epsilon": choice.target_epsilon,
        "target_delta": target_delta,
        "population": population,
        "noise_multiplier": noise,
        "sample_rate": choice.sample_rate,
        "adaptive_clipping": choice.adaptive_clipping,
    }
    if choice.max_grad_norm is not None:
        common["max_grad_norm"] = choice.max_grad_norm
    if choice.mechanism == BLOCK:
        own = {"blocks": choice.blocks or recommended_blocks(learner, population)}
    else:
        own = {
            "steps_per_round": choice.sums_for(learner),
            "images_per_patient": choice.images_per_patient,
            "labels": task.label_names,
        }
    content = {"privacy": common | own}
    policy = validate_settings(content, PolicyFile, where=f"the policy of hospital {task.site}")
    assert not isinstance(policy.privacy, NoPrivacy)
    return policy.privacy


def round_up(n_patients: int) -> int:
    """Return a number of patients rounded up as a hospital would publish it.

    To one digit; but 1 is followed by 1.5, so that a number is at most half as much again.

    >>> round_up(1834), round_up(200), round_up(7), round_up(11_081)
    (2000, 200, 10, 15000)
    """
    digit: int = 10 ** (len(str(n_patients)) - 1)
    if n_patients <= digit * 3 // 2:
        digit //= 2
    return max(10, -(-n_patients // max(digit, 1)) * max(digit, 1))


def set_up(folder: Path, policies: Mapping[str, Policy]) -> dict[str, Path]:
    """Write each hospital's policy file and make its ledger, unless they stand there.

    Args:
        folder: Of one study's run; each study of a simulation has ledgers of its own, because each
            is another answer to "what if".
        policies: By hospital.

    Returns:
        Name -> policy file.
    """
    files = {name: folder / POLICIES_FOLDER / f"{name}.yaml" for name in policies}
    for name, policy in policies.items():
        if files[name].exists():
            continue
        if not isinstance(policy, NoPrivacy):
            ledger = (folder / LEDGERS_FOLDER / name).absolute()
            witness = (folder / WITNESS_FOLDER / name).absolute()
            policy = policy.model_copy(update={"ledger": ledger, "witness": witness})
            if not (ledger / LEDGER_FILE).is_file():  # it is, of a run that was killed right here
                Ledger.create(ledger, witness, policy.budget)
        files[name].parent.mkdir(parents=True, exist_ok=True)
        content = {"privacy": policy.model_dump(mode="json")}
        write_atomically(files[name], yaml.safe_dump(content, sort_keys=False))
    return files


def statements(files: Mapping[str, Path]) -> dict[str, PrivacyStatement]:
    """Return what each hospital can say of its patients, as its ledger has it."""
    return {name: _statement(read_policy_file(path)) for name, path in files.items()}


def _statement(policy: Policy) -> PrivacyStatement:
    if isinstance(policy, NoPrivacy):
        return PrivacyStatement()
    state = read_ledger(policy.ledger, policy.witness)
    relation = state.relation_with(policy.terms())
    return PrivacyStatement(
        mechanism=policy.label,
        unit=policy.unit,
        neighbouring=relation.value,
        sampling="Poisson",
        accountant=accountant_name(),
        epsilon=epsilon(state.spent, target_delta=policy.target_delta, relation=relation),
        target_delta=policy.target_delta,
    )


def weakest(of_sites: Iterable[PrivacyStatement]) -> PrivacyStatement:
    """Return what can be said of a model: the statement of the site that lost most."""
    every = list(of_sites)
    for statement in every:
        if not statement.is_private:
            return statement
    return max(every, key=lambda statement: statement.epsilon or 0.0, default=PrivacyStatement())

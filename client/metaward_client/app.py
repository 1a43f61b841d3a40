"""The site's Flower ClientApp: reads where the site is from the node's own settings, no more.

Node settings: ``site`` (path of the site's folder or ``site.yaml``), ``round-log`` (path of the
site's own log of rounds), ``approvals`` and ``proposals`` (folders of studies that somebody agreed
to, and of those that asked in vain). A simulation has ``simulated`` in their place, since nobody is
there to agree, and may have ``policy`` (path of a policy file) and ``device`` in the place of the
site's own. They are given where the node is started, never by the coordinator.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from metaward.device import device_of, require_provable
from metaward.errors import ConfigError
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.node.approval import Consent, approved_only
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings, read_policy_file
from metaward_client.site_config import read_policy, read_site_config
from metaward_client.site_work import SiteAtWork, answer_message

SITE_KEY = "site"
ROUND_LOG_KEY = "round-log"
APPROVALS_KEY, PROPOSALS_KEY = "approvals", "proposals"
SIMULATED_KEY = "simulated"
POLICY_KEY = "policy"
DEVICE_KEY = "device"
OPEN_TASKS = 512
"""Tasks that one process keeps open: all of a large simulation. Their images are memory-mapped; on
an accelerator they stay in its memory."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer an order with an update or a refusal."""
    return answer_message(message, lambda: open_site(context.node_config))


def open_site(node_config: "dict[str, bool | float | int | str]") -> SiteAtWork:
    """Return the site that this node stands for.

    Raises:
        ConfigError: The node was started without ``site`` or ``round-log``, or nobody has said what
            the site's patients may lose.
    """
    for key in (SITE_KEY, ROUND_LOG_KEY):
        if not isinstance(node_config.get(key), str):
            raise ConfigError(
                f"a node without '{key}'",
                expected=f"{SITE_KEY}=PATH {ROUND_LOG_KEY}=PATH",
                where="the node's settings",
                next_step="Start the node with both settings.",
            )
    site_path = str(node_config[SITE_KEY])

    path = Path(site_path)
    config, policy = read_site_config(path), _policy(node_config, path)
    device, agreed = str(node_config.get(DEVICE_KEY, config.device)), _consent(node_config)
    may_be_empty = not isinstance(policy, NoPrivacy)

    def load_task(study: Study) -> Task:
        size, channels = study.model.image_size, study.model.channels
        return _load_task(site_path, size, channels, may_be_empty, device)

    def consent(study: Study) -> None:
        agreed(study)
        device_of(device)  # an accelerator that is away costs nothing: no round is charged yet
        require_provable(policy.mechanism, device)

    return SiteAtWork(
        load_task=load_task,
        round_log=Path(str(node_config[ROUND_LOG_KEY])),
        name=config.name,
        policy=policy,
        source=os_noise(),
        consent=consent,
    )


def _consent(node_config: "dict[str, bool | float | int | str]") -> Consent:
    approvals, proposals = node_config.get(APPROVALS_KEY), node_config.get(PROPOSALS_KEY)
    if node_config.get(SIMULATED_KEY) is True and approvals is None:
        return lambda _: None
    if not isinstance(approvals, str) or not isinstance(proposals, str):
        raise ConfigError(
            f"a node without '{APPROVALS_KEY}' and '{PROPOSALS_KEY}'",
            expected="the folders of what this hospital agreed to",
            where="the node's settings",
            next_step="Start the node with `metaward site start`.",
        )
    return approved_only(Path(approvals), Path(proposals))


def _policy(
    node_config: "dict[str, bool | float | int | str]", site: Path
) -> NoPrivacy | ProtectedSettings:
    named = node_config.get(POLICY_KEY)
    return read_policy_file(Path(str(named))) if named else read_policy(site)


@lru_cache(maxsize=OPEN_TASKS)
def _load_task(
    site_path: str, image_size: int, channels: int, may_be_empty: bool, device: str
) -> Task:
    from metaward_client.site import load_site

    task = load_site(Path(site_path)).load_task(
        image_size=image_size, channels=channels, may_be_empty=may_be_empty
    )
    return replace(task, device=device_of(device))

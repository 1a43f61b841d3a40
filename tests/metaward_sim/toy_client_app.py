"""A client app for the tests of the grids: workers import it by name. It needs no data.

The node's setting ``mood`` says how it behaves; ``marks`` names a folder where it leaves a trace.
"""

import ctypes
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from metaward.arrays import Arrays
from metaward.wire import RoundOrder, Update, decode_order, encode_update

SPEC = {"w": (3,), "b": (2, 2)}
LARGE = {"w": (112_000,)}
"""As many numbers as conv4 with 64 filters has; for nodes with the setting ``large``."""
app = ClientApp()


def compute(order: RoundOrder, node: int) -> Arrays:
    rng = np.random.default_rng([node, order.round_index])
    return {
        name: (leaf * np.float32(-0.1) + rng.standard_normal(leaf.shape)).astype(np.float32)
        for name, leaf in order.theta.items()
    }


def towards(target: float, order: RoundOrder, noise: Arrays) -> Arrays:
    """Half the way from theta to a theta that is ``target`` everywhere, and a little noise."""
    return {
        name: ((target - leaf) / 2 + noise[name] / 50).astype(np.float32)
        for name, leaf in order.theta.items()
    }


@app.train()
def train(message: Message, context: Context) -> Message:
    spec = LARGE if "large" in context.node_config else SPEC
    order = decode_order(message.content, lambda _: spec)
    if "marks" in context.node_config:
        mark = Path(str(context.node_config["marks"])) / f"{order.round_index}-{context.node_id}"
        mark.write_text(str(os.getpid()))
    match context.node_config.get("mood", "honest"):
        case "raise":
            raise ValueError("/home/patients/DOE^JOHN")
        case "die":
            os.kill(os.getpid(), 9)
        case "segfault":
            ctypes.string_at(0)
        case "sleep":
            time.sleep(600)
        case "slow":
            time.sleep(0.2)
        case "sleep once" if order.round_index == 0:
            time.sleep(600)
        case "meddle":
            message.content.array_records["theta"].clear()
            message.content.clear()
    delta = compute(order, context.node_id)
    if "target" in context.node_config:
        delta = towards(float(context.node_config["target"]), order, delta)
    if context.node_config.get("mood") == "poison":
        delta = {name: leaf * np.float32(-20) for name, leaf in delta.items()}
    return Message(
        encode_update(Update(order.study.digest(), order.round_index, delta)), reply_to=message
    )

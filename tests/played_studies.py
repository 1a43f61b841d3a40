"""A study of three rounds, and what tests of its rounds share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message, RecordDict

from metaward.arrays import Arrays
from metaward.study import AdamSettings, RoundSettings, Study
from metaward.wire import Update, encode_update

STUDY = Study(seed=3, rounds=3, outer=AdamSettings(step_size=0.1))
Node = Callable[[Message], RecordDict | Error | None]


def bits(theta: Arrays) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in theta.items()}


def study_with(rounds: int = 3, **settings: Any) -> Study:
    return STUDY.model_copy(update={"rounds": rounds, "round": RoundSettings(**settings)})


def changed(honest: Callable[[Message], Update], **changes: Any) -> Node:
    return lambda message: encode_update(dataclasses.replace(honest(message), **changes))


def with_delta(honest: Callable[[Message], Update], change: Callable[[Arrays], Arrays]) -> Node:
    def answer(message: Message) -> RecordDict:
        update = honest(message)
        return encode_update(dataclasses.replace(update, delta=change(update.delta)))

    return answer

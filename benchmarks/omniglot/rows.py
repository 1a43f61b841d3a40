"""The rows of the table: how each learner is trained, quickly and in full.

A learner comes into the table by one entry in `ROWS`. Its recipe is written out, because what is
compared with a paper is the learner together with its recipe. `quick` is made for fifteen minutes
on two cores, all rows together, most with half of the papers' filters, and makes one theta for all
columns that it is scored in; `full` for some five hours, with the papers' filters and a theta
for each number of shots (Reptile, which trains with ten: of ways; siamese networks: one for all).
Memory-augmented networks, which know no other ways, have one theta for both 5-way columns.
MAML's steps and rates and the temperature of matching networks were chosen on validation
characters, the last 172 of the 1,200; so were the ways and shots of siamese networks and the first
heads of ANIL and Meta-SGD.
"""

from omniglot.gradient_rows import (
    ANIL,
    FOMAML,
    MAML,
    META_SGD,
    PROTO_FOMAML,
    PROTO_MAML,
    REPTILE,
)
from omniglot.memory_rows import MANN
from omniglot.metric_rows import HALLUCINATION, MATCHING, PROTOTYPICAL, RELATION, SIAMESE
from omniglot.recipe import Row

ROWS: tuple[Row, ...] = (
    PROTOTYPICAL,
    HALLUCINATION,
    MATCHING,
    RELATION,
    SIAMESE,
    MANN,
    MAML,
    PROTO_MAML,
    FOMAML,
    PROTO_FOMAML,
    META_SGD,
    ANIL,
    REPTILE,
)

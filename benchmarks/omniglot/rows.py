"""The rows of the table: how each learner is trained, quickly and in full.

A learner comes into the table by one entry in `ROWS`. Its recipe is written out, because what is
compared with a paper is the learner together with its recipe. `quick` is made for fifteen minutes
on two cores, all rows together, most with half of the papers' filters, and makes one theta for all
columns that it is scored in; `full` for two hours, with the papers' filters and a theta for each
number of shots (Reptile, which trains with ten: of ways). MAML's steps and rates and the
temperature of matching networks were chosen on validation characters, the last 172 of the 1,200.
"""

from omniglot.gradient_rows import FOMAML, MAML, PROTO_FOMAML, PROTO_MAML, REPTILE
from omniglot.metric_rows import MATCHING, PROTOTYPICAL, RELATION
from omniglot.recipe import Row

ROWS: tuple[Row, ...] = (
    PROTOTYPICAL,
    MATCHING,
    RELATION,
    MAML,
    PROTO_MAML,
    FOMAML,
    PROTO_FOMAML,
    REPTILE,
)

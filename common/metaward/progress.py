"""Events of a running study, for whoever watches it: a live view, a log file, TensorBoard."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RoundEvent:
    """What the coordinator knows when a round closes.

    Attributes:
        round_index: From 0.
        n_rounds: Rounds of the study.
        asked: Sites that were asked.
        admitted: Updates that were admitted.
        refused: Reason -> number of replies refused for it.
        void: True when the quorum was missed and theta stayed as it was.
        delta_norm: L2 norm of the aggregated delta; 0 in a void round.
        seconds: Wall time of the round.
        overhead_s: Wall time outside the wait for the sites.
        closed_at: When it closed, in seconds since 1970 (UTC); None in lines of earlier releases.
        refused_nodes: Reason -> numbers of the nodes, on the grid, that were refused for it.
        promises: Node's number -> what its hospital says of its policy, as in an update's header;
            of the admitted.
    """

    round_index: int
    n_rounds: int
    asked: int
    admitted: int
    refused: dict[str, int] = field(default_factory=dict)
    void: bool = False
    delta_norm: float = 0.0
    seconds: float = 0.0
    overhead_s: float = 0.0
    closed_at: float | None = None
    refused_nodes: dict[str, list[int]] = field(default_factory=dict)
    promises: dict[str, dict[str, str | float]] = field(default_factory=dict)

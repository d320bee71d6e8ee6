"""The driver: every proposal once, and no refusal that is not true."""

from __future__ import annotations

from tests.simulation.bugs.planting import TWICE, Patches, bug
from vaultdb.consensus.placement import Placement
from vaultdb.consensus.proposals import Proposals
from vaultdb.raft.messages import (
    NOBODY,
)


@bug(35, seeds=20, symptom=TWICE)
def a_proposal_is_sent_twice_in_one_term(patches: Patches) -> None:
    original = Placement.forward

    def forward(self: Placement) -> None:
        waiting = self._proposals.parked(1 << 20)
        original(self)
        for proposal in waiting[:1]:
            self._proposals._park(proposal)

    patches.setattr(Placement, "forward", forward)


@bug(35, seeds=300, symptom=TWICE)
def a_forwarded_proposal_is_taken_in_another_term(patches: Patches) -> None:
    patches.setattr(Placement, "_forwarded_in_term", property(lambda self: bool(self._forwarded)))


@bug(35, seeds=50, symptom=TWICE)
def a_new_leader_seals_the_fate_of_what_was_sent_before(patches: Patches) -> None:
    """Sent again as soon as there is another leader, not when that leader's term has a commit here."""
    original = Placement.leadership_changed

    def leadership_changed(self: Placement) -> None:
        original(self)
        if self._raft.leader != NOBODY:
            self._proposals.term_committed(self._raft.term, 0)

    patches.setattr(Placement, "leadership_changed", leadership_changed)


@bug(35, seeds=300, symptom=TWICE)
def a_late_refusal_of_a_former_term_counts(patches: Patches) -> None:
    def refused(self: Proposals, key: tuple[int, int], _term: int) -> bool:
        proposal = self._all.get(key)
        if proposal is None or not proposal.term:
            return False
        self._park(proposal)
        return True

    patches.setattr(Proposals, "refused", refused)


@bug(35, 26, seeds=300, symptom=TWICE)
def what_a_snapshot_brought_is_sent_again(patches: Patches) -> None:
    def replaced(self: Placement, index: int, term: int) -> None:
        self._observed_index = max(self._observed_index, index)
        self._observed_term = max(self._observed_term, term)

    patches.setattr(Placement, "replaced", replaced)

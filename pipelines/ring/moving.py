"""How a block gets from a rank to its neighbour, while streams run.

Every rank carries operations out in one and the same order: the passes before the move are computed with the block
here, those after it with the block there, where what the caches hold of it has come along. Nobody else waits for it.
"""

from __future__ import annotations

from pipelines.ring.group import Group
from pipelines.ring.operations import Move
from pipelines.ring.stage import Stage


def carry_out(move: Move, group: Group, stage: Stage) -> bool:
    """Does this rank's part, if it has one; whether it has."""
    forward = move.target > move.source
    if group.rank == move.source:
        group.send_all("up" if forward else "down", move.target, stage.give(move.layer))
        return True
    if group.rank == move.target:
        room = stage.room(move.layer)
        group.receive_all("up" if forward else "down", move.source, room)
        stage.adopt(move.layer, room)
        return True
    return False

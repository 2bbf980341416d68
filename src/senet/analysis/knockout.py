"""How much each gate contributes: accuracy with the gate of one block at a time replaced by a constant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import nn

from senet.analysis.gates import choose_blocks, find_blocks, replaced
from senet.analysis.recording import Recording, mean_gates
from senet.errors import SenetError, check_choice
from senet.evaluation.accuracy import Evaluation
from senet.evaluation.batches import DataSource, model_and_data
from senet.evaluation.scores import evaluate

Replacement = Literal["one", "mean"]
"""What replaces a gate: 1, or each channel's mean gate in a recording."""


@dataclass(frozen=True, kw_only=True)
class BlockKnockout:
    """The accuracy of a network with the gate of one block replaced.

    Args:
        block: the block's name in the paper's style, such as SE_4_6.
        module: the name of its module.
        evaluation: of the network with this gate replaced.
        top1_change: relative to the unchanged network, in percentage points.
        loss_change: relative to the unchanged network, in nats.
    """

    block: str
    module: str
    evaluation: Evaluation
    top1_change: float
    loss_change: float


@dataclass(frozen=True, kw_only=True)
class KnockoutStudy:
    """The accuracy of a network with each of its gates replaced in turn.

    Args:
        replacement: what replaced a gate.
        whole: the evaluation of the unchanged network.
        blocks: in the order of computation.
    """

    replacement: Replacement
    whole: Evaluation
    blocks: tuple[BlockKnockout, ...]


def knock_out_blocks(
    run_or_model: nn.Module | str | Path,
    data: DataSource | None = None,
    *,
    replacement: Replacement = "mean",
    recording: Recording | None = None,
    blocks: Sequence[str] | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> KnockoutStudy:
    """Replace the gate of one block at a time by a constant and measure accuracy and loss.

    Cost: one evaluation of the data set for each block, and one for the unchanged network.

    Args:
        run_or_model: see `senet.record_excitations`.
        data: see `senet.evaluate`; batches must be a list or a loader, not an iterator, for each evaluation
            goes through them.
        replacement: what replaces a gate: "one", or "mean", each channel's mean gate in the recording.
        recording: of the network; needed for "mean".
        blocks: names, the paper's or the modules'; None for all.
        batch_size: images at once.
        device: see `senet.evaluate`.

    Raises:
        SenetError: no recording for "mean", an unknown block, or data that do not fit.
    """
    check_choice("replacement", replacement, get_args(Replacement))
    if replacement == "mean" and recording is None:
        raise SenetError(
            "replacement is 'mean' without a recording; pass that of senet.record_excitations, or replacement='one'"
        )
    model, data = model_and_data(run_or_model, data)
    chosen = choose_blocks(find_blocks(model), blocks)
    gates = {
        block.name: 1.0 if replacement == "one" else mean_gates(cast(Recording, recording), block) for block in chosen
    }

    whole = evaluate(model, data, batch_size=batch_size, device=device)
    rows = []
    for block in chosen:
        with replaced(model, block, gates[block.name]):
            result = evaluate(model, data, batch_size=batch_size, device=device)
        rows.append(
            BlockKnockout(
                block=block.name,
                module=block.module,
                evaluation=result,
                top1_change=result.top1 - whole.top1,
                loss_change=result.loss - whole.loss,
            )
        )
    return KnockoutStudy(replacement=replacement, whole=whole, blocks=tuple(rows))

"""What each gate is worth: blocks switched off one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import nn

from senet.analysis.gates import choose_blocks, find_blocks, replaced
from senet.analysis.recording import Recording, mean_gates
from senet.errors import SenetError, check_choice
from senet.evaluation.accuracy import Evaluation, evaluate
from senet.evaluation.batches import DataSource, model_and_data

By = Literal["one", "mean"]


@dataclass(frozen=True, kw_only=True)
class BlockAblation:
    """A network without the gate of one block.

    Args:
        block: the paper's name.
        module: the module's.
        evaluation: of the network with this block's gate replaced.
        top1_change: in percent points, against the whole network.
        loss_change: in nats, against the whole network.
    """

    block: str
    module: str
    evaluation: Evaluation
    top1_change: float
    loss_change: float


@dataclass(frozen=True, kw_only=True)
class AblationStudy:
    """A network without each of its gates in turn.

    Args:
        by: what took a gate's place, "one" or "mean".
        whole: the evaluation of the whole network.
        blocks: in the order of computation.
    """

    by: By
    whole: Evaluation
    blocks: tuple[BlockAblation, ...]


def ablate_blocks(
    run_or_model: nn.Module | str | Path,
    data: DataSource | None = None,
    *,
    by: By = "mean",
    recording: Recording | None = None,
    blocks: Sequence[str] | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> AblationStudy:
    """Replace the gate of one block at a time by a constant and measure accuracy and loss.

    Args:
        run_or_model: see `senet.record_excitations`.
        data: see `senet.evaluate`; batches must be ones that can be gone through again.
        by: "one", or each channel's "mean" in a recording.
        recording: of the network; needed for "mean".
        blocks: names of some; None for all.
        batch_size: images at once.
        device: see `senet.evaluate`.

    Raises:
        SenetError: no recording for "mean", an unknown block, or data that do not fit.
    """
    check_choice("by", by, get_args(By))
    if by == "mean" and recording is None:
        raise SenetError("by is 'mean' without a recording; pass that of senet.record_excitations, or by='one'")
    model, data = model_and_data(run_or_model, data)
    chosen = choose_blocks(find_blocks(model), blocks)
    gates = {block.name: 1.0 if by == "one" else mean_gates(cast(Recording, recording), block) for block in chosen}

    whole = evaluate(model, data, batch_size=batch_size, device=device)
    rows = []
    for block in chosen:
        with replaced(model, block, gates[block.name]):
            result = evaluate(model, data, batch_size=batch_size, device=device)
        change = (result.top1 - whole.top1, result.loss - whole.loss)
        rows.append(
            BlockAblation(
                block=block.name,
                module=block.module,
                evaluation=result,
                top1_change=change[0],
                loss_change=change[1],
            )
        )
    return AblationStudy(by=by, whole=whole, blocks=tuple(rows))

"""Write docs/speed.md and the table of the README from benchmarks/results."""

from collections.abc import Callable, Mapping

from pages.measured import Result, median, provenance, ratios, read, spread, table
from pages.speed_backends import backends_section, fused_section
from pages.speed_before import before_section
from pages.speed_decoding import decoding_section
from pages.speed_goals import all_goals, fastest_of_ours, fastest_peer, table_of_cases, table_of_goals
from pages.speed_gpu import gpu_goals_section, gpu_section
from pages.speed_small import host_section, small_section
from pages.speed_tables import (
    inference_parts,
    inference_section,
    kept_section,
    operator_section,
    training_section,
)

HEAD = """\
# Speed

What SE costs here, beside the same network without it. Written by `make docs` from `benchmarks/results/*.json`; the
first lines of each script in `benchmarks/` say what its contestants are, and each section names its command.

Every number is a median; a ratio is the median of the ratios within a round, in which all contestants took turns, and
the range after it holds the middle half of the rounds.

## Goals

As multiples of the other's time or memory. Settings of a line are separated by slashes, in its order; every setting
with its spread is [below](#every-goal).

### On two CPU cores
"""
MISSED = """
### What is missed, and why

- **Small maps on the CPU**: a block's SE is some thirty operations forward and backward, however small the map, and in
  a network each takes two to three times as long as alone in a loop, because caches are cold in between: the four
  operators' way took 65 microseconds forward by itself and 180 in cifar_se_resnet20. So small maps take the way with
  the fewest operations (`senet.ops.excitation`) instead of the fewest bytes.
- **Small maps on a GPU**: the vectors between the four operators are some forty small launches a block
  ([what the host does](#what-the-host-does)), more than SE layer by layer has. So eager PyTorch runs small maps layer
  by layer there; in a CUDA graph and under torch.compile, which `senet train` uses by itself, launches cost little.
- **Peak memory**: SE's own 2.5 million parameters, with gradients and momenta (30 MB); of feature maps the operator
  keeps no more than plain BatchNorm and ReLU do.
- **Inference**: squeeze and excitation are three small steps for each block, between which all threads wait for each
  other ([scale inside the convolution](#scale-inside-the-convolution)). OpenVINO adds one pass that scales, adds the
  shortcut and applies the ReLU, for it can multiply inside a convolution by constants alone; oneDNN does all of that in
  the convolution. Where matrices are multiplied fastest (bf16 on a processor with AMX) these steps are a larger share.
  `senet openvino` computes 4 images at once, which there is slower than all 16 (OpenVINO's own row);
  `micro_batch=16` asks for that.
- **Training step**: everything but the convolutions takes about as long with SE as without; the convolutions differ by
  some percent from process to process ([with memory kept](#with-memory-kept)).
"""
SECTIONS: Mapping[str, Callable[[Result], str]] = {
    "small_networks": small_section,
    "host_overhead": host_section,
    "residual_tail": operator_section,
    "training_step": training_section,
    "inference": inference_section,
    "backends": backends_section,
    "fused_convolution": fused_section,
    "decoding": decoding_section,
    "before_after": before_section,
}
EVERY_GOAL = """
## Every goal

`bound` is the ratio that would be measured if nothing but the bytes that must move (operator) or the multiplications
(training, inference) took time, at the speeds that this machine reached in the same run.
"""


def speed_page() -> str:
    """Return docs/speed.md."""
    goals = all_goals()
    text = HEAD + (table_of_goals(goals) if goals else "\nNot measured yet: `make bench` does.\n")
    text += gpu_goals_section() + MISSED + gpu_section()
    for name, section in SECTIONS.items():
        result = read(name)
        if result is not None:
            text += section(result) + "\n" + provenance(name, result)
            parts = read(f"{name}_parts")
            text += "" if parts is None else inference_parts(parts)
    kept, steps_kept = read("residual_tail_kept"), read("training_step_kept")
    if kept is not None and steps_kept is not None:
        text += kept_section(kept, steps_kept)
    return text + (EVERY_GOAL + table_of_cases(goals) if goals else "")


def readme_table() -> str:
    """Return the lines of the README between the markers."""
    training, inference = read("training_step"), read("inference")
    if training is None or inference is None:
        return "\nNot measured yet: `make bench` does.\n\n"
    rows = []
    for one in training["steps"]:
        times = one["milliseconds"]
        three = [median(times, name) for name in ("timm resnet50", "timm seresnet50", "senet se_resnet50")]
        over = [spread(ratios(times, name, "timm resnet50")) for name in ("timm seresnet50", "senet se_resnet50")]
        rows.append((f"training step, {one['batch']} images, {one['precision']}", *three, *over))
    for one in inference["latency"]:
        times = one["milliseconds"]
        best = fastest_of_ours(times)
        peers = [fastest_peer(times, kind) for kind in ("plain,", "SE,")]
        three = [median(times, name) for name in (*peers, best)]
        over = [spread(ratios(times, name, peers[0])) for name in (peers[1], best)]
        rows.append((f"inference, batch {one['batch']}, {one['precision']}", *three, *over))
    headings = ("ms", "ResNet-50", "SE-ResNet-50", "with senet", "SE / plain", "senet / plain")
    where = "; ".join(f"{part}: {place(result)}" for part, result in (("training", training), ("inference", inference)))
    return f"{table(headings, rows)}\n{where[0].upper()}{where[1:]}.\n\n"


def place(result: Result) -> str:
    """Say in short where and when something was measured."""
    machine = result["machine"]
    return (
        f"{machine['processor']}, {machine['threads']} threads, PyTorch {result['versions']['torch']}, {result['date']}"
    )

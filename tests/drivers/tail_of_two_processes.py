"""One of two processes whose batches count as one, for tests/ops/test_sync.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from senet.ops import Excitation, Norm, residual_tail

torch.set_num_threads(1)
dist.init_process_group("gloo")
folder, rank, group = Path(sys.argv[1]), dist.get_rank(), dist.group.WORLD.group_name
sizes = (3, 2)
for name, x in torch.load(folder / "inputs.pt").items():
    layout = torch.channels_last if x.pop("last") else torch.contiguous_format
    for key in ("u", "shortcut", "dy"):
        x[key] = x[key].split(sizes)[rank].contiguous(memory_format=layout)
    leaves = {key: value.requires_grad_() for key, value in x.items() if key != "dy"}
    norm = Norm(x["weight"], x["bias"], eps=1e-3, group=group)
    s_norm = Norm(x["s_weight"], x["s_bias"], eps=1e-3, group=group) if "s_weight" in x else None
    excitation = Excitation(x["fc1"], x["fc2"], x["bias1"], x["bias2"], "tanh") if "fc1" in x else None
    found = residual_tail(x["u"], norm, excitation, x["shortcut"], s_norm)
    gradients = dict(zip(leaves, torch.autograd.grad(found.y, list(leaves.values()), x["dy"]), strict=True))
    for key, gradient in gradients.items():
        if key not in ("u", "shortcut"):
            dist.all_reduce(gradient)  # DDP divides by the number of processes, as the loss is a mean there
    told = {"y": found.y.detach(), "gradients": gradients, "statistics": list(found.statistics)}
    told["s_statistics"] = found.shortcut_statistics and list(found.shortcut_statistics)
    torch.save(told, folder / f"{name}_{rank}.pt")
dist.destroy_process_group()

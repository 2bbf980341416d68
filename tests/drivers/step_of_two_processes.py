"""One of two processes that take a training step together, for tests/nn/test_fused.py."""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
model, x, labels = torch.load(f"{folder}/model.pt", weights_only=False)
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
F.cross_entropy(model(x.chunk(2)[rank]), labels.chunk(2)[rank]).backward()
for p in model.parameters():  # as DDP does, which refuses synchronized BatchNorm on the CPU
    dist.all_reduce(p.grad)
    p.grad /= 2
torch.save(({name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())), f"{folder}/{rank}.pt")
dist.destroy_process_group()

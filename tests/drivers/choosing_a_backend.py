"""Optimize a small network for this machine, and print the backend that runs it."""

import torch

import senet

model = senet.optimize_for_inference(senet.create_model("cifar_se_resnet20").eval())
model(torch.zeros(1, 3, 32, 32))
print(model.backend)

"""Use several OpenVINO models, let them go, then get a signal, for tests/optimization/test_inference.py."""

import gc
import signal
import subprocess
import sys

import torch

import senet

signal.signal(signal.SIGCHLD, lambda *_: None)
for _ in range(2):
    model = senet.optimize_for_inference(senet.create_model("cifar_se_resnet20").eval(), backend="openvino")
    for batch in (1, 2):
        model(torch.randn(batch, 3, 32, 32))
    del model
    gc.collect()
subprocess.run([sys.executable, "-c", ""])

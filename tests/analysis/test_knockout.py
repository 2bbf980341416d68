"""Gates replaced by a constant: against networks in which that is written by hand."""

import pytest
import torch
from torch import Tensor, nn

import senet
from senet import Recording, SenetError, knock_out_blocks, record_excitations


def images(number: int = 4, side: int = 32) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(0))


class WithoutGate(nn.Module):
    """What a network is with the gate of one block replaced, written by hand."""

    def __init__(self, gate: Tensor) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


@pytest.mark.parametrize("replacement", ["mean", pytest.param("one", marks=pytest.mark.slow)])
def test_a_knockout_is_evaluation_of_the_network_without_the_gate(digits_run, replacement):
    recording = record_excitations(digits_run)
    study = knock_out_blocks(
        digits_run,
        replacement=replacement,
        recording=recording if replacement == "mean" else None,
        blocks=["SE_4_3", "SE_3_1"],
    )
    assert study.whole == senet.evaluate(digits_run)
    assert [row.block for row in study.blocks] == ["SE_4_3", "SE_3_1"]
    for row in study.blocks:
        model = senet.from_pretrained(digits_run)
        gate = recording[row.block].overall_mean.float().view(-1, 1, 1) if replacement == "mean" else torch.tensor(1.0)
        model.set_submodule(row.module, WithoutGate(gate))
        expected = senet.evaluate(model, "digits")
        assert row.evaluation.top1 == expected.top1
        assert row.evaluation.loss == pytest.approx(expected.loss, rel=1e-5)
        assert row.top1_change == pytest.approx(expected.top1 - study.whole.top1)
        assert row.loss_change == pytest.approx(expected.loss - study.whole.loss, abs=1e-6)


def test_knockouts_leave_the_model_as_it_was():
    model = senet.from_pretrained("cifar_se_resnet20")
    data = [(images(4, 32), torch.arange(4))]
    study = knock_out_blocks(model, data, replacement="one")
    assert len(study.blocks) == 9
    assert not any(m._forward_hooks for m in model.modules())


def test_mean_gates_want_a_recording_of_the_same_network():
    model = senet.from_pretrained("cifar_se_resnet20")
    data = [(images(4, 32), torch.arange(4))]
    with pytest.raises(SenetError, match="replacement is 'mean' without a recording"):
        knock_out_blocks(model, data)
    with pytest.raises(SenetError, match="replacement is 'zero'; expected one of one, mean"):
        knock_out_blocks(model, data, replacement="zero")
    other: Recording = record_excitations(senet.create_model("cifar_se_wrn16_8"), [images(1, 32)])
    with pytest.raises(SenetError, match="the recording has 128 channels at SE_2_1, the model 16"):
        knock_out_blocks(model, data, recording=other)

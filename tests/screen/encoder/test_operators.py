"""Settings of torch that our work on a GPU needs; torch holds them without one, too."""

import pytest
import torch

from rankshift.screen.families.operators import settle


@pytest.fixture
def settings():
    cuda, product = torch.backends.cuda, torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = cuda.cudnn_sdp_enabled(), [getattr(product, name) for name in names]
    cuda.enable_cudnn_sdp(True)
    for name in names:
        setattr(product, name, True)
    yield lambda: [cuda.cudnn_sdp_enabled(), *(getattr(product, name) for name in names)]
    cuda.enable_cudnn_sdp(before[0])
    for name, value in zip(names, before[1], strict=True):
        setattr(product, name, value)


def test_a_gpu_gets_no_plans_of_cudnn_and_sums_in_float32(settings):
    settle(torch.device("cuda"))
    assert settings() == [False, False, False]


def test_a_cpu_changes_nothing(settings):
    settle(torch.device("cpu"))
    assert settings() == [True, True, True]

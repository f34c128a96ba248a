"""Precision and random numbers of a device."""

import torch

from thaw.compute import Compute, exact_fp32


def test_fp32_on_cuda_is_no_tf32() -> None:
    parts = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = True
        exact_fp32()
        assert [part.allow_tf32 for part in parts] == [False, False]
    finally:
        for part, value in zip(parts, before, strict=True):
            part.allow_tf32 = value


def test_random_numbers_are_drawn_again_from_a_kept_state() -> None:
    compute = Compute(torch.device("cpu"), "fp32")
    compute.seed(3)
    state = compute.random_state()
    first = torch.rand(5)
    compute.set_random_state(state)
    assert torch.equal(torch.rand(5), first)
    compute.wait()

"""How exactly float32 is computed on a GPU."""

import torch


def exact_float32() -> None:
    """No TF32, in convolutions neither, where torch allows it from the start: with its 10 bits of mantissa a part that was scored on a GPU
    would have other scores than the part beside it that was scored on a CPU. Training that wants speed asks for bf16.
    """
    # not `torch.backends.fp32_precision`: after that torch 2.13 raises wherever `cudnn.allow_tf32` is read
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

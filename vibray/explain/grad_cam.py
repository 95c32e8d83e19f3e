"""Grad-CAM: where in the time-frequency image a network looked for its answer."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def grad_cam(
    trunk: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch channels rows columns"],
    target: int | Tensor | None = None,
) -> Float[Tensor, "batch rows columns"]:
    """Grad-CAM of each image, in [0, 1], at the images' own size.

    `trunk` maps images to the feature maps to look at, (batch, maps, h, w): of a ResNet, what `layer4` returns. `head` maps those to what
    is to be explained: a score a record (batch,), or class scores (batch, classes) before the softmax, of which `target` names one (an
    index for all, or one a record; by default each record's highest). Each map is weighted by its mean gradient, the sum kept where it is
    positive, resized bilinearly and divided by the record's largest value; a record with nothing positive is 0 everywhere.

    Both are called once, in the mode they are in: with batch norm or dropout in training mode a record would depend on its batch mates, so
    put the network into eval mode first. It works under no_grad too; no parameter gets a gradient.

    Raises ValueError where the shapes are others.

    Source: Selvaraju et al. 2017, "Grad-CAM", eq. 1 and 2.
    """
    with torch.enable_grad():
        maps = trunk(images.detach()).detach().requires_grad_(True)
        if maps.ndim != 4 or len(maps) != len(images):
            raise ValueError(f"trunk must return (batch, maps, height, width), not {tuple(maps.shape)}")
        explained = _one_a_record(head(maps), target, len(images))
        (gradient,) = torch.autograd.grad(explained.sum(), maps)
    alpha = gradient.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((alpha * maps.detach()).sum(dim=1, keepdim=True))
    cam = functional.interpolate(cam, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    largest = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, cam / torch.where(largest > 0, largest, 1), 0)


def _one_a_record(answers: Tensor, target: int | Tensor | None, batch: int) -> Float[Tensor, " batch"]:
    if answers.shape == (batch,):
        if target is not None:
            raise ValueError("a target is for class scores (batch, classes); this head returns one score a record")
        return answers
    if answers.ndim != 2 or len(answers) != batch:
        raise ValueError(f"head must return (batch,) or (batch, classes), not {tuple(answers.shape)}")
    if target is None:
        target = answers.argmax(dim=1)
    index = torch.as_tensor(target, device=answers.device).expand(batch)
    return answers.gather(1, index[:, None])[:, 0]

"""A GPU that is not there: CUDA tensors with shape, type and device but no content (torch's FakeTensorMode).

Every operation is checked as on the real device: tensors of two devices, or of two types where a kernel wants one, are
refused. What depends on content gives ones. So code that forgot a ``.to(device)`` fails here as it would there, on any
machine. Backward passes are not run (autograd asks the driver): a step gets gradients of zero.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

REAL = {name: getattr(Tensor, name) for name in ("item", "numpy", "tolist", "__bool__", "__float__", "__int__")}


def _ones(tensor: Tensor) -> np.ndarray:
    return np.ones(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _numpy(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert a {tensor.device} tensor to numpy")
    return _ones(tensor)


_FAKE = {
    "item": lambda t: _ones(t).item(),
    "tolist": lambda t: _ones(t).tolist(),
    "numpy": _numpy,
    "__bool__": lambda t: True,
    "__float__": lambda t: 1.0,
    "__int__": lambda t: 1,
}


def _content(name: str) -> Any:
    def asked(tensor: Tensor, *arguments: Any, **more: Any) -> Any:
        return _FAKE[name](tensor) if isinstance(tensor, FakeTensor) else REAL[name](tensor, *arguments, **more)

    return asked


def _apply(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    """``Module.to``: torch swaps tensors in place, which fake ones refuse; here they are replaced."""
    for part in module.modules() if recurse else (module,):
        for key, weight in part._parameters.items():
            if weight is not None:
                part._parameters[key] = nn.Parameter(change(weight.detach()), weight.requires_grad)
        for key, buffer in part._buffers.items():
            part._buffers[key] = None if buffer is None else change(buffer)
    return module


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """``"cuda:0"`` can be used inside, by code that runs in this thread."""
    if torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 asks for a driver even where tensors have no content")
    with contextlib.ExitStack() as stack:
        for name in REAL:
            stack.enter_context(mock.patch.object(Tensor, name, _content(name)))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", lambda *a, **k: True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


class FakeAccelerator:
    """What the training loops ask of an Accelerator, on the fake GPU."""

    device = torch.device("cuda:0")
    num_processes, process_index, is_main_process, scaler = 1, 0, True, None

    def __init__(self, precision: str) -> None:
        self.mixed_precision = precision

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """As Accelerate does: the forward pass under autocast, its result in float32."""
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        dtype, forward = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.mixed_precision], model.forward

        def under_autocast(*given: Any) -> Tensor:
            with torch.autocast("cuda", dtype):
                return forward(*given).float()

        model.forward = under_autocast  # type: ignore[method-assign]
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        assert loss.device == self.device and loss.requires_grad
        for weight in self.weights:
            assert weight.device == self.device and weight.dtype == torch.float32
            weight.grad = torch.zeros_like(weight)

    def reduce(self, values: Tensor, how: str) -> Tensor:
        assert values.device == self.device
        return values

    def no_sync(self, model: nn.Module) -> Any:
        return contextlib.nullcontext()

    def wait_for_everyone(self) -> None:
        pass

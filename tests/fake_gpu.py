"""A GPU that is not there: tensors that call themselves CUDA tensors, computed on the CPU.

An operation whose tensors lie on different devices raises, as it does on a GPU. Works with the release of PyTorch named
below, built with CUDA; another one may call its operators differently.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FITS = "2.11"
aten = torch.ops.aten


def why_not() -> str:
    """Why the fake device cannot be used here; empty if it can."""
    if not torch.backends.cuda.is_built():
        return "PyTorch is built without CUDA"
    if torch.cuda.is_available():
        return "a GPU is there"
    return "" if torch.__version__.startswith(f"{FITS}.") else f"the fake GPU fits PyTorch {FITS}"


class GpuTensor(Tensor):
    """A tensor that everything takes for one on a GPU; its numbers are those of the CPU tensor ``inner``."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "GpuTensor":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device="cuda:0")
        tensor.inner = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of the fake GPU, outside of fake_gpu()")

    def tolist(self) -> Any:  # PyTorch's own methods of these names refuse subclasses
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.cpu(), spec)

    def __repr__(self) -> str:
        return repr(self.cpu())

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.inner.__reduce_ex__(protocol)  # a file holds the numbers


GpuTensor.__name__ = "Tensor"  # as the type of a real one is called, in digests


class FakeGpu(TorchDispatchMode):
    """Runs the operations of :class:`GpuTensor` on the CPU; ``reads`` counts how often the host waited for a result."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.generator = 0, torch.Generator()  # the device's own

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {id(t.inner) if isinstance(t, GpuTensor) else id(t): t for t in tensors}
        device = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if device != "cuda" and not any(isinstance(t, GpuTensor) for t in tensors):
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):  # of inference
            with self:
                return func.decompose(*args, **kwargs)
        self._check(func, args, kwargs, tensors)
        self.reads += func is aten._local_scalar_dense.default or device == "cpu"
        inner_args, inner_kwargs = tree_map_only(GpuTensor, lambda t: t.inner, (args, kwargs))
        out = self._run(func, inner_args, inner_kwargs | ({"device": "cpu"} if device else {}))
        if func is aten._pack_padded_sequence.default:
            return GpuTensor(out[0]), out[1]  # the steps' sizes stay on the host

        def place(t: Tensor) -> Tensor:
            return known[id(t)] if id(t) in known else t if device == "cpu" else GpuTensor(t)

        # A view of a tensor that is none of inference mode must be none either.
        with torch.inference_mode(tensors[0].is_inference() if func.is_view else torch.is_inference_mode_enabled()):
            return tree_map_only(Tensor, place, out)

    def _check(self, func, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        """Raise where devices are mixed; a single number of the CPU may take part in pointwise operations."""
        wrong, name = [t for t in tensors if not isinstance(t, GpuTensor)], func.overloadpacket.__name__
        if func in (aten._to_copy.default, aten.copy_.default) or name == "_pack_padded_sequence":
            wrong = []  # its lengths are of the host
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            wrong = [t for t in wrong if t.ndim and not any(t is i for i in args[1])]  # indices may be anywhere
        elif torch.Tag.pointwise in func.tags or name == "fill_":
            wrong = [t for t in wrong if t.ndim or (t is args[0] and func._schema.is_mutable)]
        if wrong or kwargs.get("generator") is not None:
            what = f"a tensor {tuple(wrong[0].shape)} is on the CPU" if wrong else "its generator is of the CPU"
            raise RuntimeError(f"{func} mixes devices: {what}")

    def _run(self, func, args: tuple, kwargs: dict) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)


_backward, _grad, _lstm, _apply = Tensor.backward, torch.autograd.grad, torch._VF.lstm, torch.nn.Module._apply


def _leaf_gradients(root: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What PyTorch's engine does; for a graph on a GPU, it would look for a real one."""
    pending = {root.grad_fn: {0: torch.ones_like(root)}}  # node -> gradients of its outputs
    found: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        while pending:
            node = max(pending, key=lambda node: node._sequence_nr())  # a node's users were made after it
            given = pending.pop(node)
            grads = [given.get(i) for i in range(len(node._input_metadata))]
            grads = node(*grads) if callable(node) else node.apply(*grads)
            grads, targets = grads if isinstance(grads, tuple) else (grads,), node.next_functions
            if hasattr(node, "needs_input_grad"):  # a Function written in Python; some of its inputs are no tensors
                grads = [grad for grad, needed in zip(grads, node.needs_input_grad) if needed]
                targets = [edge for edge in targets if edge[0] is not None]
            for (target, i), grad in zip(targets, grads, strict=True):
                if target is None or grad is None:
                    continue
                expected = target._input_metadata[i]
                if grad.device != expected.device:
                    raise RuntimeError(f"{node.name()} mixes devices: its gradient is on {grad.device}")
                grad = grad.sum_to_size(expected.shape).to(expected.dtype)
                if hasattr(target, "variable"):
                    _, sum_ = found.get(id(target.variable), (None, None))
                    found[id(target.variable)] = target.variable, grad if sum_ is None else sum_ + grad
                else:
                    slot = pending.setdefault(target, {})
                    slot[i] = slot[i] + grad if i in slot else grad
    return list(found.values())


def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    if not isinstance(loss, GpuTensor):
        return _backward(loss, *args, **kwargs)
    for leaf, grad in _leaf_gradients(loss):
        leaf.grad = grad if leaf.grad is None else leaf.grad + grad


def grad(outputs: Tensor, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Of one number, with respect to parameters."""
    if not isinstance(outputs, GpuTensor):
        return _grad(outputs, inputs, *args, **kwargs)
    found = {id(leaf): value for leaf, value in _leaf_gradients(outputs)}
    return tuple(found[id(leaf)] for leaf in inputs)


def _move(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    # A parameter that goes to another device is still the same object, as optimizers and tied weights expect.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return _apply(module, *args, **kwargs)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class _Lstm(torch.autograd.Function):
    """Stands for cuDNN: all steps of all layers in one operation."""

    @staticmethod
    def forward(ctx, packed: tuple, options: tuple, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor):
        if not (h.is_contiguous() and c.is_contiguous()):
            raise RuntimeError("rnn: hx is not contiguous")
        inner = [t.inner.detach().requires_grad_() for t in (x, h, c, *weights)]
        with torch.enable_grad():
            out = _lstm(inner[0], *packed, inner[1:3], inner[3:], *options)
        ctx.inner, ctx.out = inner, out
        return tuple(GpuTensor(t.detach()) for t in out)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        given = [torch.zeros_like(t) if g is None else g.inner for g, t in zip(grads, ctx.out)]
        return None, None, *(GpuTensor(g) for g in _grad(ctx.out, ctx.inner, given))


def lstm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(x, GpuTensor):
        return _lstm(x, *rest)
    packed = rest[:1] if isinstance(rest[0], Tensor) else ()  # the sizes of a packed sequence's steps
    state, weights, *options = rest[len(packed) :]
    return _Lstm.apply(packed, options, x, *state, *weights)


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """A machine with one GPU, which multiplies bfloat16 in hardware."""
    gpu, rnn = FakeGpu(), torch.nn.modules.rnn
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "fake GPU",
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "manual_seed_all": gpu.generator.manual_seed,
        "get_rng_state_all": lambda: [gpu.generator.get_state()],
        "set_rng_state_all": lambda states: [gpu.generator.set_state(state) for state in states],
        "synchronize": lambda device=None: None,
    }
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(Tensor, "backward", backward))
        stack.enter_context(mock.patch.object(torch.autograd, "grad", grad))
        stack.enter_context(mock.patch.object(rnn._VF, "lstm", lstm))
        stack.enter_context(mock.patch.object(rnn.RNNBase, "flatten_parameters", lambda self: None))
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _move))
        for supported in (torch.utils._foreach_utils, sys.modules["torch.optim.optimizer"]):
            supported._foreach_supported_types.append(GpuTensor)
            stack.callback(supported._foreach_supported_types.remove, GpuTensor)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=): first on the CPU, then a copy
        stack.enter_context(gpu)
        yield gpu

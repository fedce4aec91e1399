"""A CUDA GPU that is not there: its tensors keep their numbers in host memory, and every wait of the host is recorded.

Code that asks for ``cuda`` runs unchanged inside ``with fake_gpu() as gpu:``, with real numbers. Operations that mix
devices raise, as on a GPU. Uses private parts of PyTorch; FITS is the version that they belong to.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FITS = "2.11"
PROJECT = str(Path(__file__).resolve().parent.parent / "common")
SIZE_FROM_DATA = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal")
NO_KERNEL = ("empty", "new_empty", "detach", "_unsafe_view", "lift", "alias", "_local_scalar_dense")
aten = torch.ops.aten


def why_not() -> str:
    """Why the fake device cannot be used here; empty if it can."""
    if not torch.backends.cuda.is_built():
        return "PyTorch is built without CUDA"
    if torch.cuda.is_available():
        return "a GPU is there"
    if not torch.__version__.startswith(f"{FITS}."):
        return f"PyTorch is {torch.__version__}, the fake GPU fits {FITS}"
    return ""


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

    def tolist(self) -> Any:  # PyTorch's own methods of these three names refuse subclasses
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.cpu(), spec)

    def __repr__(self) -> str:
        return repr(self.cpu())

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.inner.__reduce_ex__(protocol)  # a file holds the numbers


class Event(NamedTuple):
    phase: str  # what FakeGpu.phase was
    name: str
    line: str  # of a notebook or of common/


def _line() -> str:
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(("hw4_", PROJECT)):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}:{frame.f_lineno}" if frame else "?"


class FakeGpu(TorchDispatchMode):
    """Runs the operations of :class:`GpuTensor` on the CPU.

    Attributes:
        phase: a word of the caller's that is noted with every event.
        kernels: the operations that a GPU would launch.
        waits: what makes the host wait until a GPU has finished all that it was given before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.kernels: list[Event] = []
        self.waits: list[Event] = []
        self.pinned: dict[int, torch.UntypedStorage] = {}
        self.generator = torch.Generator()  # the device's own

    def wait(self, kind: str) -> None:
        self.waits.append(Event(self.phase, kind, _line()))

    def waited(self, phase: str) -> Counter:
        """The waits of a phase: how often of which kind."""
        return Counter(event.name for event in self.waits if event.phase == phase)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {id(t.inner) if isinstance(t, GpuTensor) else id(t): t for t in tensors}
        device = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if func.overloadpacket in (aten.is_pinned, aten._pin_memory):
            return self._pin(func, tensors[0])
        if device != "cuda" and not any(isinstance(t, GpuTensor) for t in tensors):
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):  # of inference
            with self:
                return func.decompose(*args, **kwargs)
        self._check(func, args, kwargs, tensors, device)
        inner_args, inner_kwargs = tree_map_only(GpuTensor, lambda t: t.inner, (args, kwargs))
        inner_kwargs |= {"device": "cpu"} if device else {}
        out = self._run(func, inner_args, inner_kwargs)
        self.record(func, args, kwargs, out)

        if func is aten._pack_padded_sequence.default:
            return GpuTensor(out[0]), out[1]  # the steps' sizes stay on the host

        def place(t: Tensor) -> Tensor:
            return known[id(t)] if id(t) in known else t if device == "cpu" else GpuTensor(t)

        # A view of a tensor that is none of inference mode must be none either.
        with torch.inference_mode(tensors[0].is_inference() if func.is_view else torch.is_inference_mode_enabled()):
            return tree_map_only(Tensor, place, out)

    def record(self, func, args: tuple, kwargs: dict, out: Any) -> None:
        """Note an operation; views and what computes nothing launch no kernel."""
        name, results = func._schema.name.removeprefix("aten::"), [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not (func.is_view or name.startswith(NO_KERNEL) or (results and not any(t.numel() for t in results))):
            self.kernels.append(Event(self.phase, name, _line()))

    def _pin(self, func, tensor: Tensor) -> bool | Tensor:
        if func.overloadpacket is aten.is_pinned:
            return tensor.untyped_storage()._cdata in self.pinned
        copy = tensor.clone()
        self.pinned[copy.untyped_storage()._cdata] = copy.untyped_storage()
        return copy

    def _upload(self, tensor: Tensor, non_blocking: bool) -> None:
        if not non_blocking:
            self.wait("upload")
        elif tensor.untyped_storage()._cdata not in self.pinned:
            self.wait("upload of memory that is not pinned")

    def _check(self, func, args: tuple, kwargs: dict, tensors: list[Tensor], device: str | None) -> None:
        # Record what waits; raise where devices are mixed. Numbers of the CPU may take part in pointwise operations.
        of_host = [t for t in tensors if not isinstance(t, GpuTensor)]
        name, wrong = func.overloadpacket.__name__, of_host
        if func in (aten._to_copy.default, aten.copy_.default):
            wrong, source = [], args[-1] if func is aten._to_copy.default else args[1]
            non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
            if not isinstance(source, GpuTensor):
                self._upload(source, non_blocking)
            elif device == "cpu" or of_host:
                self.wait("copy to the host")
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [i for i in args[1] if i is not None]
            wrong = [t for t in of_host if t.ndim and not any(t is i for i in indices)]
            for index in indices:
                if index.dtype in (torch.bool, torch.uint8):
                    self.wait("mask as an index")
                elif not isinstance(index, GpuTensor):
                    self.wait("upload")
        elif name == "_local_scalar_dense":
            self.wait("number read")
        elif name in SIZE_FROM_DATA or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
            self.wait("size that depends on data")
        elif name == "_pack_padded_sequence":
            wrong = []  # its lengths are of the host
        elif torch.Tag.pointwise in func.tags or name == "fill_":
            wrong = [t for t in of_host if t.ndim or (t is args[0] and func._schema.is_mutable)]
        if wrong:
            raise RuntimeError(f"{func} at {_line()} mixes devices: a tensor {tuple(wrong[0].shape)} is on the CPU")
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{func} at {_line()} mixes devices: its generator is of the CPU")

    def _run(self, func, args: tuple, kwargs: dict) -> Any:
        if func in (aten._softmax.default, aten._log_softmax.default) and args[2]:  # from float16, for a GPU alone
            return func(args[0].float(), args[1], False)
        if func in (aten._softmax_backward_data.default, aten._log_softmax_backward_data.default):
            return func(*args[:3], args[0].dtype).to(args[3])
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)


_backward, _lstm = Tensor.backward, torch.nn.modules.rnn._VF.lstm


def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """What PyTorch's engine does; for a graph on a GPU, it would look for a real one."""
    if not isinstance(loss, GpuTensor):
        return _backward(loss, *args, **kwargs)
    pending = {loss.grad_fn: {0: torch.ones_like(loss)}}  # node -> gradients of its outputs
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
                if grad.shape != expected.shape:
                    grad = grad.sum_to_size(expected.shape)
                if grad.dtype != expected.dtype:
                    grad = grad.to(expected.dtype)
                if hasattr(target, "variable"):
                    leaf = target.variable
                    leaf.grad = grad if leaf.grad is None else leaf.grad + grad
                else:
                    slot = pending.setdefault(target, {})
                    slot[i] = slot[i] + grad if i in slot else grad


_apply = torch.nn.Module._apply


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
    def forward(ctx, gpu: FakeGpu, packed: tuple, options: tuple, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor):
        if not (h.is_contiguous() and c.is_contiguous()):
            raise RuntimeError("rnn: hx is not contiguous")
        inner = [t.inner.detach().requires_grad_() for t in (x, h, c, *weights)]
        with torch.enable_grad():
            out = _lstm(inner[0], *packed, inner[1:3], inner[3:], *options)
        ctx.gpu, ctx.inner, ctx.out = gpu, inner, out
        gpu.record(aten._cudnn_rnn.default, (x, h, c, *weights), {}, out)
        return tuple(GpuTensor(t.detach()) for t in out)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        given = [torch.zeros_like(t) if g is None else g.inner for g, t in zip(grads, ctx.out)]
        found = torch.autograd.grad(ctx.out, ctx.inner, given)
        ctx.gpu.record(aten._cudnn_rnn_backward.default, grads, {}, found)
        return None, None, None, *(GpuTensor(g) for g in found)


@contextmanager
def fake_gpu(bfloat16: bool = False) -> Iterator[FakeGpu]:
    """A machine with one GPU, which multiplies bfloat16 in hardware or not."""
    gpu = FakeGpu()

    def lstm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(x, GpuTensor):
            return _lstm(x, *rest)
        packed = rest[:1] if isinstance(rest[0], Tensor) else ()  # the sizes of a packed sequence's steps
        state, weights, *options = rest[len(packed) :]
        return _Lstm.apply(gpu, packed, options, x, *state, *weights)

    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "fake GPU",
        "is_bf16_supported": lambda including_emulation=True: bfloat16 or including_emulation,
        "is_current_stream_capturing": lambda: False,
        "manual_seed_all": gpu.generator.manual_seed,
        "get_rng_state_all": lambda: [gpu.generator.get_state()],
        "set_rng_state_all": lambda states: [gpu.generator.set_state(state) for state in states],
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: gpu.wait("synchronize"),
    }
    rnn = torch.nn.modules.rnn
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(Tensor, "backward", backward))
        stack.enter_context(mock.patch.object(rnn._VF, "lstm", lstm))
        stack.enter_context(mock.patch.object(rnn.RNNBase, "flatten_parameters", lambda self: None))
        for supported in (torch.utils._foreach_utils, sys.modules["torch.optim.optimizer"]):
            supported._foreach_supported_types.append(GpuTensor)
            stack.callback(supported._foreach_supported_types.remove, GpuTensor)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=): first on the CPU, then a copy
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _move))
        stack.enter_context(gpu)
        yield gpu

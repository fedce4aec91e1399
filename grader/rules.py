"""What the assignment forbids. What counts is what a model is built of and what it calls.

Source text is read for remarks alone, and for what question 3 says about imports.
"""

import ast
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from IPython.core.inputtransformer2 import TransformerManager

_CONTAINERS = r"Module|ModuleList|ModuleDict|ParameterList|ParameterDict|Buffer|Sequential|Identity|Flatten|Unflatten"
_CONTAINERS += r"|DataParallel"
_ACTIVATIONS = (
    r"GELU|ReLU6?|SiLU|ELU|SELU|CELU|LeakyReLU|PReLU|RReLU|Mish|Tanh|Sigmoid|LogSigmoid|Softmax|LogSoftmax|Softplus|"
    r"Softsign|Hardswish|Hardsigmoid|Hardtanh|Tanhshrink|GLU"
)
_NORMS = r"LayerNorm|RMSNorm|GroupNorm|BatchNorm[123]d|InstanceNorm[123]d|LocalResponseNorm"
_LOSSES = r"\w*Loss|\w*_loss\w*|cross_entropy\w*|binary_cross_entropy\w*|kl_div|huber\w*"
_ATTENTION = (
    r"MultiheadAttention|Transformer\w*|scaled_dot_product_attention|_scaled_dot_product\w*|flex_attention|"
    r"multi_head_attention_forward|_native_multi_head_attention|_transformer_encoder_layer_fwd"
)


@dataclass(frozen=True)
class Rule:
    """What one notebook's models may be built of and call; ``given`` is handed out with the assignment."""

    layers: str | None  # of torch.nn, allowed; None: all but ``forbidden``
    forbidden: str  # layers and functions
    given: str = r"(?!)"

    def forbids(self, name: str, is_layer: bool = False) -> bool:
        if re.fullmatch(self.given, name):
            return False
        outside = is_layer and self.layers is not None and not re.fullmatch(self.layers, name)
        return bool(outside or re.fullmatch(self.forbidden, name))


LOSS = Rule(None, _LOSSES)  # question 1(d)
RULES = {
    "hw4_rnn": Rule(
        layers=rf"{_CONTAINERS}|{_ACTIVATIONS}",
        forbidden=rf"{_ATTENTION}|linear|bilinear|\w*dropout\w*|rnn_\w+|lstm\w*|gru\w*",
        given=r"Embedding|embedding",
    ),
    "hw4_seq2seq": Rule(layers=None, forbidden=_ATTENTION),
    "hw4_vit": Rule(
        layers=rf"{_CONTAINERS}|Conv2d|Linear|{_ACTIVATIONS}|{_NORMS}",
        forbidden=_ATTENTION,
        given=rf"\w*[Dd]ropout\w*|{_LOSSES}",
    ),
}
_SPOKEN = {  # names that a notebook which keeps to the letter does not even mention
    "hw4_rnn": rf"nn\.(RNN|LSTM|GRU)\w*|nn\.Linear|nn\.Embedding\w*|nn\.\w*Dropout\w*|{_LOSSES}|{_ATTENTION}",
    "hw4_seq2seq": _ATTENTION,
    "hw4_vit": rf"{_ATTENTION}|nn\.\w*Dropout\w*|nn\.Embedding\w*|nn\.\w*Loss",
}
LAYER_PACKAGES = set(  # offer transformers and their parts
    "einops fairseq flash_attn flax keras pytorch_lightning tensorflow timm torchtune transformers vit_pytorch "
    "x_transformers xformers".split()
)
PACKAGES = (  # the assignment's, Colab's, and others that tabulate, draw, log or read and offer no layer
    set("torch torchvision torchtext tensorboard matplotlib numpy tqdm common data".split())
    | set(
        "IPython google ipywidgets PIL cv2 imageio nltk pandas plotly portalocker psutil requests scipy seaborn".split()
    )
    | set("skimage sklearn spacy tensorboardX torchdata torchinfo torchmetrics torchsummary wandb yaml".split())
    | sys.stdlib_module_names
)


_parsing = threading.Lock()


def parsed(source: str) -> ast.Module:
    """The syntax tree; one at a time, because Python 3.11 fails at random where two threads parse at once."""
    with _parsing:
        return ast.parse(source)


def python(source: str) -> str:
    """A code cell's source with IPython's magics and shell lines turned into calls of ``get_ipython()``.

    Line numbers are kept. Cells that are not Python (``%%bash``, ``%%html`` ...) become empty.
    """
    if source.lstrip().startswith("%%"):
        head, _, rest = source.lstrip().partition("\n")
        if head.split()[0] not in ("%%time", "%%timeit", "%%capture"):
            return ""
        source = "\n" + rest
    source = re.sub(r"^(\s*)%time\s", r"\1", source, flags=re.M)
    try:
        parsed(source)
        return source  # a line that starts with % inside an expression is no magic
    except SyntaxError:
        return TransformerManager().transform_cell(source)


def layer(kind: type) -> str:
    """The first class of PyTorch's that a module's class is or derives from; empty for the mere base class."""
    for base in kind.__mro__:
        if base.__module__.startswith(("torch.", "torchvision.")) and base.__name__ != "Module":
            return base.__name__
    return ""


def violations(rule: Rule, layers: Iterable[str], calls: Iterable[str]) -> list[str]:
    """What was built and called although the rule forbids it."""
    found = [f"nn.{name} is built" for name in sorted(set(layers)) if rule.forbids(name, is_layer=True)]
    return found + [f"{name} is called" for name in sorted(set(calls)) if rule.forbids(name)]


def mentions(cells: Mapping[int, str], homework: str) -> list[tuple[int, int, str]]:
    """Every forbidden name in the source, comments included: cell, line in it (counted from 1), and the name."""
    pattern = re.compile(rf"(?<![\w.])(?:torch\.|nn\.functional\.|F\.)*({_SPOKEN[homework]})(?!\w)")
    return [
        (number, line, match[1])
        for number, source in cells.items()
        for line, text in enumerate(source.splitlines(), 1)
        for match in pattern.finditer(text)
    ]


def foreign_imports(cells: Mapping[int, str]) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Packages from outside the assignment that are imported: those in use, and those that nothing refers to."""
    imported: dict[str, tuple[int, str]] = {}
    used = set()
    for number, source in cells.items():
        try:
            tree = parsed(python(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # it cannot run either
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                for alias in node.names:
                    package = (module or alias.name).split(".")[0]
                    if package not in PACKAGES and not getattr(node, "level", 0):
                        imported[alias.asname or alias.name.split(".")[0]] = (number, package)
            elif isinstance(node, ast.Name):
                used.add(node.id)
    names = [name for name in imported if name in used or name == "*"]
    return [imported[name] for name in names], [imported[name] for name in imported if name not in names]

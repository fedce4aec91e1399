"""Messages between judge and worker: JSON, and tensors as npz without pickle, because the worker is not to be trusted.

A message is two lengths, the JSON, and the npz, which holds one flat array for each kind of number.
"""

import io
import json
import math
import socket
import struct
import time
from typing import Any

import numpy as np
import torch

LIMIT = 32 << 20  # bytes of one message
DTYPES = {name: getattr(torch, name) for name in "float64 float32 float16 int64 int32 int16 int8 uint8 bool".split()}


class Ref(str):
    """The path of an object that lives in the worker, such as ``model.decoder``."""


def encode(value: Any) -> bytes:
    """Numbers, texts, lists, dicts with text keys, tensors and :class:`Ref`; of anything else, the type's name.

    Raises:
        ValueError: if the message would be longer than the limit.
    """
    flat: dict[str, list[np.ndarray]] = {}

    def plain(x: Any, depth: int = 0) -> Any:
        if isinstance(x, torch.Tensor):
            x = x.detach().to("cpu")
            name = str(x.dtype).removeprefix("torch.")
            if name not in DTYPES:
                x, name = x.float(), "float32"
            flat.setdefault(name, []).append(x.contiguous().numpy().reshape(-1))
            return {"t": [name, list(x.shape)]}
        if isinstance(x, Ref):
            return {"r": str(x)}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        if isinstance(x, np.generic):
            return plain(x.item(), depth + 1)
        if isinstance(x, list | tuple | set) and depth < 20:
            return [plain(item, depth + 1) for item in x]
        if isinstance(x, dict) and depth < 20:
            return {"d": [[str(key), plain(item, depth + 1)] for key, item in x.items()]}
        return {"o": type(x).__name__}

    head = json.dumps(plain(value)).encode()
    size = len(head) + sum(a.nbytes for arrays in flat.values() for a in arrays)
    if size > LIMIT - 10_000:
        raise ValueError(f"a message of {size:,} bytes, expected at most {LIMIT:,}")
    file = io.BytesIO()
    np.savez(file, **{name: np.concatenate(arrays) for name, arrays in flat.items()})
    return struct.pack("!II", len(head), file.tell()) + head + file.getvalue()


def decode(head: bytes, body: bytes) -> Any:
    """What :func:`encode` was given; tuples and sets are lists, and objects are their type's name in a dict.

    Raises:
        ValueError: for anything that no :func:`encode` has written.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            if sum(info.file_size for info in file.zip.infolist()) > 2 * LIMIT:
                raise ValueError("compressed numbers")
            flat = {name: file[name] for name in file.files}
        places = dict.fromkeys(flat, 0)

        def value(x: Any) -> Any:
            if isinstance(x, list):
                return [value(item) for item in x]
            if not isinstance(x, dict):
                return x
            ((kind, content),) = x.items()
            if kind == "d":
                return {str(key): value(item) for key, item in content}
            if kind == "r":
                return Ref(content)
            if kind != "t":
                return {"object": str(content)}
            name, shape = content[0], [int(n) for n in content[1]]
            count, begin = math.prod(shape), places[name]
            places[name] += count
            part = np.array(flat[name][begin : begin + count], dtype=name)
            return torch.from_numpy(part.reshape(shape))

        return value(json.loads(head))
    except Exception as error:
        raise ValueError(f"a message cannot be read ({type(error).__name__})") from error


def send(connection: socket.socket, value: Any) -> None:
    connection.sendall(encode(value))


def receive(connection: socket.socket, end: float = math.inf) -> Any:
    """The next message.

    Args:
        connection: where it comes from.
        end: until when it must be complete, by ``time.monotonic()``.

    Raises:
        TimeoutError: if it is not.
        EOFError: if the other side is gone.
        ValueError: if it is too long or malformed.
    """

    def read(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(None if left == math.inf else left)
            try:
                part = connection.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError("the other side is gone")
            data += part
        return bytes(data)

    sizes = struct.unpack("!II", read(8))
    if sum(sizes) > LIMIT:
        raise ValueError(f"a message of {sum(sizes):,} bytes, expected at most {LIMIT:,}")
    return decode(read(sizes[0]), read(sizes[1]))

"""Messages between judge and worker: JSON and raw numbers, never pickle, because the worker is not to be trusted."""

import json
import math
import socket
import struct
import time
from typing import Any

import numpy as np
import torch

LIMIT = 1 << 28  # bytes of one message
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


class Ref(str):
    """The path of an object that lives in the worker, such as ``model.decoder``."""


def encode(value: Any) -> bytes:
    """Numbers, texts, lists, dicts with text keys, tensors and :class:`Ref`; of anything else, the type's name."""
    blobs: list[bytes] = []

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            x = x.detach().to("cpu")
            name = str(x.dtype).removeprefix("torch.")
            if name not in DTYPES:
                x, name = x.float(), "float32"
            blobs.append(x.contiguous().numpy().tobytes())
            return {"@tensor": [name, list(x.shape)]}
        if isinstance(x, Ref):
            return {"@ref": str(x)}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        if isinstance(x, np.generic):
            return plain(x.item())
        if isinstance(x, list | tuple):
            return [plain(item) for item in x]
        if isinstance(x, dict):
            return {"@dict": [[str(key), plain(item)] for key, item in x.items()]}
        return {"@object": type(x).__name__}

    head = json.dumps(plain(value)).encode()
    return struct.pack("!Q", len(head)) + head + b"".join(blobs)


def decode(message: bytes) -> Any:
    """What :func:`encode` was given; tuples are lists, and objects are their type's name in a dict.

    Raises:
        ValueError: for anything that no :func:`encode` has written.
    """
    try:
        (size,) = struct.unpack_from("!Q", message)
        head, place = json.loads(message[8 : 8 + size]), 8 + size

        def value(x: Any) -> Any:
            nonlocal place
            if isinstance(x, list):
                return [value(item) for item in x]
            if not isinstance(x, dict):
                return x
            ((kind, content),) = x.items()
            if kind == "@dict":
                return {str(key): value(item) for key, item in content}
            if kind == "@ref":
                return Ref(content)
            if kind != "@tensor":
                return {kind: str(content)}
            dtype, shape = DTYPES[content[0]], [int(n) for n in content[1]]
            if min(shape, default=0) < 0:
                raise ValueError(f"shape {shape}")
            count = math.prod(shape)
            if count == 0:
                return torch.zeros(shape, dtype=dtype)
            raw = bytearray(message[place : place + count * dtype.itemsize])
            place += len(raw)
            return torch.frombuffer(raw, dtype=dtype, count=count).reshape(shape)

        return value(head)
    except Exception as error:
        raise ValueError(f"a message cannot be read ({type(error).__name__})") from error


def send(connection: socket.socket, value: Any) -> None:
    data = encode(value)
    connection.sendall(struct.pack("!Q", len(data)) + data)


def receive(connection: socket.socket, seconds: float | None = None) -> Any:
    """The next message.

    Raises:
        TimeoutError: if it has not arrived within so many seconds.
        EOFError: if the other side is gone.
        ValueError: if it is too long or malformed.
    """
    end = None if seconds is None else time.monotonic() + seconds

    def read(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            if end is not None:
                connection.settimeout(max(0.01, end - time.monotonic()))
            try:
                part = connection.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError("the other side is gone")
            data += part
            if end is not None and time.monotonic() > end:
                raise TimeoutError
        return bytes(data)

    (size,) = struct.unpack("!Q", read(8))
    if size > LIMIT:
        raise ValueError(f"a message of {size:,} bytes, expected at most {LIMIT:,}")
    return decode(read(size))

"""The weights of a TorchScript archive, read as data.

`torch.jit.load` runs the code that the archive brings along. Nothing of it is needed for the weights: the archive
is a zip whose `data.pkl` describes a tree of modules and whose `data/<n>` are raw tensor storages. The unpickler
here knows tensors, storages and, for every class of the archive's own, an empty stand-in. Anything else is refused,
and the archive's code is never looked at.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(file: Path) -> bool:
    """Whether the file is a TorchScript archive, whatever it is called."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the archive's module by their dotted names, on the CPU.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError: the archive is damaged.
        pickle.UnpicklingError: it holds something other than modules and tensors.
    """
    with zipfile.ZipFile(file) as archive:
        folder = archive.namelist()[0].split("/")[0]
        with archive.open(f"{folder}/data.pkl") as stream:
            module = _WeightsOnly(stream, archive, f"{folder}/data").load()
    return dict(_named_tensors(module))


class _Module:
    """Stands in for every class that the archive defines: a bag of attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _WeightsOnly(pickle.Unpickler):
    """Builds modules and tensors, and nothing else."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, storages: str) -> None:
        super().__init__(stream)
        self.archive = archive
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """Called for every class and function that the pickle names."""
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists of constants
            return lambda data: data
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a module of the archive")

    def persistent_load(self, pid: Any) -> Tensor:
        """Called for every tensor's storage; `zipfile` checks its checksum."""
        _, dtype, key, _, _ = pid
        content = bytearray(self.archive.read(f"{self.storages}/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _named_tensors(node: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in getattr(node, "attributes", {}).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _named_tensors(value, f"{prefix}{name}.")

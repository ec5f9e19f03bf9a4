"""How HDF5 itself sees what a file stores."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def stored(path: Path) -> dict[str, Any]:
    """Everything a file stores, by path, through calls that the package's own comparison does not use."""
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        found["/"] = _attributes(file)
        _collect(file, "", found)
    return found


def _collect(group: h5py.Group, prefix: str, found: dict[str, Any]) -> None:
    for name in group:
        path, link = f"{prefix}/{name}", group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            found[path] = ("soft link", link.path)
            continue
        obj = group[name]
        if isinstance(obj, h5py.Group):
            found[path] = ("group", _attributes(obj))
            _collect(obj, path, found)
        elif isinstance(obj, h5py.Datatype):
            found[path] = ("type", str(obj.dtype), _attributes(obj))
        else:
            found[path] = ("dataset", *_kind(obj), _attributes(obj), _bytes(obj))


def _kind(dataset: h5py.Dataset) -> tuple[Any, ...]:
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    return dataset.shape, dataset.maxshape, dataset.id.get_type(), plist.get_layout(), dataset.chunks, filters


def _attributes(obj: Any) -> dict[str, Any]:
    result = {}
    for name in obj.attrs:
        value, kind = obj.attrs[name], obj.attrs.get_id(name).get_type()
        result[name] = (kind, value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value))
    return result


def _bytes(dataset: h5py.Dataset) -> Any:
    """Chunks as they lie in the file, still filtered; for other layouts the plain bytes."""
    if dataset.chunks is None or dataset.shape is None:
        return None if dataset.shape is None else dataset[()].tobytes()
    chunks = [dataset.id.get_chunk_info(i).chunk_offset for i in range(dataset.id.get_num_chunks())]
    return {at: dataset.id.read_direct_chunk(at) for at in chunks}

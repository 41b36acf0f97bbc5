"""Messages that were recorded as JSON, by the names of their fields. Which types there are is up to ``data.bags.typestore``."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

ALIASES = {  # other names that recorders use
    "builtin_interfaces/msg/Time": {"nsec": "nanosec", "nsecs": "nanosec", "secs": "sec"},
    "builtin_interfaces/msg/Duration": {"nsec": "nanosec", "nsecs": "nanosec", "secs": "sec"},
}
DTYPES = {"bool": "bool", "byte": "uint8", "char": "uint8", "octet": "uint8"}


def from_json(data: bytes, name: str, store: Typestore) -> Any:
    """An object of type ``name``. Raises ``ValueError`` or ``TypeError`` saying which field does not fit.

    A field may be missing (it is zero or empty then, as writers leave it out), unless the object has fields that the type
    does not: then it may have been meant by another name.
    """
    return _object(json.loads(data), name, store, name)


def _object(tree: Any, name: str, store: Typestore, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} is a {type(tree).__name__}, expected an object with fields")
    aliases = ALIASES.get(name, {})
    tree = {aliases.get(key, key): value for key, value in tree.items()}
    fields = store.fielddefs[name][1]
    names = [field for field, _ in fields]
    extra, missing = sorted(tree.keys() - set(names)), [field for field in names if field not in tree]
    if extra and missing:
        raise ValueError(f"{where} has the fields {extra}, and {name} has {missing} instead")
    values = {
        normalize_fieldname(field): _value(tree.get(field), kind, store, f"{where}.{field}") for field, kind in fields
    }
    return store.types[name](**values)


def _value(tree: Any, kind: Any, store: Typestore, where: str) -> Any:
    """The field's value; zero or empty for None."""
    if kind[0] == Nodetype.NAME:
        return _object({} if tree is None else tree, kind[1], store, where)
    if kind[0] == Nodetype.BASE:
        return _scalar(tree, kind[1][0], where)
    inner, size = kind[1]
    if inner[0] == Nodetype.BASE and "string" not in inner[1][0]:
        dtype = np.dtype(DTYPES.get(inner[1][0], inner[1][0]))
        if tree is None:
            return np.zeros(size if kind[0] == Nodetype.ARRAY else 0, dtype)
        array = np.frombuffer(base64.b64decode(tree, validate=True), dtype) if isinstance(tree, str) else np.asarray(tree)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "biuf") or (kind[0] == Nodetype.ARRAY and len(array) != size):
            raise ValueError(f"{where} is no list of {inner[1][0]}")
        return array.astype(dtype)
    if not isinstance(tree, list | None):
        raise ValueError(f"{where} is a {type(tree).__name__}, expected a list")
    return [_value(entry, inner, store, f"{where}[{k}]") for k, entry in enumerate(tree or [])]


def _scalar(tree: Any, base: str, where: str) -> Any:
    wanted: tuple[type, ...]
    zero: str | bool | float
    if "string" in base:
        wanted, zero = (str,), ""
    elif base == "bool":
        wanted, zero = (bool,), False
    elif base.startswith("float"):
        wanted, zero = (float, int), 0.0
    else:
        wanted, zero = (int,), 0
    if tree is None:
        return zero
    if not isinstance(tree, wanted):
        raise ValueError(f"{where} is {tree!r}, expected a {base}")
    return float(tree) if base.startswith("float") else tree

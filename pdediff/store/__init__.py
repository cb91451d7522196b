"""The store at rest: Zarr v3 shards with receipts, a lock, a manifest; read by xarray or as torch batches.

Zarr, xarray and torch are imported only when a name that needs them is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdediff.store.dataset import SetReader
    from pdediff.store.files import SCHEMA_VERSION, check_name, digest, require_place, write_durably
    from pdediff.store.integrity import Damage, repair, verify
    from pdediff.store.layout import create, create_first, is_described, read_identity, read_schema
    from pdediff.store.lock import Lock
    from pdediff.store.manifest import content_hash, finish_folder, is_complete, read_manifest
    from pdediff.store.observations import Table, read_observations
    from pdediff.store.reader import Entry, catalogue, open_store
    from pdediff.store.receipts import Receipt
    from pdediff.store.schema import ArraySpec, Schema
    from pdediff.store.security import check_tree
    from pdediff.store.write import Writer, write_region, write_shard

_HOME = {
    "SetReader": "dataset",
    "SCHEMA_VERSION": "files",
    "check_name": "files",
    "digest": "files",
    "require_place": "files",
    "write_durably": "files",
    "Damage": "integrity",
    "repair": "integrity",
    "verify": "integrity",
    "create": "layout",
    "create_first": "layout",
    "is_described": "layout",
    "read_identity": "layout",
    "read_schema": "layout",
    "Lock": "lock",
    "content_hash": "manifest",
    "finish_folder": "manifest",
    "is_complete": "manifest",
    "read_manifest": "manifest",
    "Table": "observations",
    "read_observations": "observations",
    "Entry": "reader",
    "catalogue": "reader",
    "open_store": "reader",
    "Receipt": "receipts",
    "ArraySpec": "schema",
    "Schema": "schema",
    "check_tree": "security",
    "Writer": "write",
    "write_region": "write",
    "write_shard": "write",
}

__all__ = [
    "SCHEMA_VERSION",
    "ArraySpec",
    "Damage",
    "Entry",
    "Lock",
    "Receipt",
    "Schema",
    "SetReader",
    "Table",
    "Writer",
    "catalogue",
    "check_name",
    "check_tree",
    "content_hash",
    "create",
    "create_first",
    "digest",
    "finish_folder",
    "is_complete",
    "is_described",
    "open_store",
    "read_identity",
    "read_manifest",
    "read_observations",
    "read_schema",
    "repair",
    "require_place",
    "verify",
    "write_durably",
    "write_region",
    "write_shard",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

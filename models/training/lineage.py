"""Lineage of a run: what it was trained on, and whether a store or configuration still matches."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError, MismatchError
from models.configuration import Config, from_dict, to_dict

if TYPE_CHECKING:
    from features.store import Store

_CHANGEABLE = {
    "data": {"store", "negatives", "eval_batch_size"},
    "run": {
        *("folder", "epochs", "max_steps", "device", "deterministic", "threads", "resume"),
        *("eval_epochs", "eval_steps", "save_steps", "log_steps", "patience", "tensorboard"),
    },
}
"""Settings that may change when a run is resumed."""


def store_keys(store: Store) -> dict[str, str]:
    """Return what identifies the data in a store: the key and content hash of each group."""
    groups: Mapping[str, Mapping[str, Any]] = store.manifest["groups"]
    keys = {name: f"{entry['key'][:12]}/{entry['hash'][:12]}" for name, entry in groups.items()}
    return {"store": store.hash[:12], **dict(sorted(keys.items()))}


def store_reference(store: Store) -> dict[str, Any]:
    """Return the path, key, hash and groups of a store, for ``features gc`` to find in a run."""
    manifest = store.manifest
    return {"path": str(store.path), **{name: manifest[name] for name in ("key", "hash", "groups")}}


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("scenestore", "torch", "numpy", "h5py"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder that was never installed
            found[name] = "not installed"
    return found


def run_metadata(
    config: Config, options: Any, keys: Mapping[str, str], **position: float
) -> dict[str, Any]:
    """Return what is needed to use the weights of a run without its configuration file.

    Args:
        config: the run.   options: the model's options dataclass.   keys: see ``store_keys``.
        position: step, epoch and rsum of the weights.
    """
    return {
        "config": to_dict(config),
        "options": dataclasses.asdict(options),
        "keys": dict(keys),
        "libraries": libraries(),
        **position,
    }


_CONTENTS = {
    "index": "images or captions",
    "visual": "scene graphs",
    "regions": "region features",
    "tokens": "parses",
    "tokens@ud": "parses (UD)",
    "text": "triplets",
}  # what a message calls the groups


def check_keys(
    trained: Mapping[str, str],
    given: Mapping[str, str],
    what: str,
    advice: str,
    *,
    run: Path,
    store: str,
) -> None:
    """Check that a store has the data that weights were trained on.

    Args:
        trained: keys saved with the weights.   given: keys of the store at hand.
        what: names the weights in the message.   advice: last sentence of the message.
        run: the run folder, whose ``store.json`` names the store it was trained on.
        store: path of the store at hand.

    Raises: MismatchError: a group differs.
    """
    different = sorted(
        name for name in {*trained, *given} - {"store"} if trained.get(name) != given.get(name)
    )
    if different:
        names = []
        for name in different:
            how = "also" if name not in trained else "other" if name in given else "no"
            names.append(f"{how} {_CONTENTS.get(name, name)}")
        raise MismatchError(
            f"{what} was trained on {_trained_on(run)}; {store} has {', '.join(names)}. {advice}"
        )


def _trained_on(run: Path) -> str:
    """Return the path of the store that a run was trained on, as far as it is known."""
    try:
        return str(json.loads((run / "store.json").read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another store"


def check_resumable(
    state: Mapping[str, Any], config: Config, keys: Mapping[str, str], path: Path
) -> None:
    """Check that a checkpoint belongs to the same experiment as a configuration.

    Length, place and frequency of evaluations may change; model, data, seed and optimiser may not.

    Raises:
        ConfigError: a setting differs, or the file is not the checkpoint of a run.
        MismatchError: the store has other data.
    """
    if missing := sorted({"config", "keys", "model", "position"} - state.keys()):
        raise ConfigError(
            f"{path}: not a checkpoint of a run; {missing[0]!r} is missing. "
            "Start again with --run.resume never, or name another file."
        )
    before, now = to_dict(from_dict(state["config"], str(path))), to_dict(config)
    for section, settings in now.items():
        for name in settings.keys() - _CHANGEABLE.get(section, set()):
            if before[section][name] != now[section][name]:
                raise ConfigError(
                    f"{path} was made with {section}.{name} = {before[section][name]!r}, now it is "
                    f"{now[section][name]!r}. Use another --run.folder, or --run.resume never."
                )
    advice = "Use that store, another --run.folder, or --run.resume never."
    check_keys(state["keys"], keys, str(path), advice, run=path.parent, store=config.data.store)

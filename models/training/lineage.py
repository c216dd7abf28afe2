"""Lineage of a run: what it was trained on, and whether a store or configuration still matches."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError, MismatchError, TrainingError, UsageError
from models.configuration import Config, from_dict, load, to_dict

if TYPE_CHECKING:
    from features.store import Store
    from features.vocab import Codebook

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
    config: Config, options: Any, keys: Mapping[str, str], codebook: Codebook, **position: float
) -> dict[str, Any]:
    """Return what is needed to use the weights of a run without its configuration file.

    Args:
        config: the run.   options: the model's options dataclass.   keys: see ``store_keys``.
        codebook: of the run.   position: step, epoch and rsum of the weights.
    """
    return {
        "config": to_dict(config),
        "options": dataclasses.asdict(options),
        "keys": dict(keys),
        "codebook": codebook.digest,
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
    for name in ("config", "keys", "model", "position"):
        if not isinstance(state.get(name), Mapping):
            raise ConfigError(
                f"{path}: not a checkpoint of a run; {name!r} is missing. "
                "Start again with --run.resume never, or name another file."
            )
    for name, before, now in differences(from_dict(state["config"], str(path)), config):
        raise ConfigError(
            f"{path} was made with {name} = {before!r}, now it is {now!r}. Use another "
            "--run.folder, or --run.resume never."
        )
    advice = "Use that store, another --run.folder, or --run.resume never."
    check_keys(state["keys"], keys, str(path), advice, run=path.parent, store=config.data.store)


def differences(one: Config, other: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that two runs must share to be the same experiment, but do not."""
    before, now = to_dict(one), to_dict(other)
    for section, settings in now.items():
        for name in sorted(settings.keys() - _CHANGEABLE.get(section, set())):
            if before[section][name] != now[section][name]:
                yield f"{section}.{name}", before[section][name], now[section][name]


def check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Check that the metadata of weights have what ``run_metadata`` returns.

    Raises: TrainingError: something is missing or has another type.
    """
    parts = {name: metadata.get(name) for name in ("config", "options", "keys")}
    wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
    if not wrong:
        model = metadata["config"].get("model")
        known = isinstance(model, dict) and isinstance(model.get("name"), str)
        wrong = [] if known else ["config"]
    if wrong:
        raise TrainingError(
            f"{path}: not written by models.train ({wrong[0]!r} is missing). Check the run folder."
        )


def check_same_run(metadata: Mapping[str, Any], path: Path, codebook: Codebook) -> None:
    """Check that weights belong to the configuration and the codebook in their run folder.

    A configuration that is missing or cannot be read is not compared.

    Args:
        metadata: of the weights, see ``run_metadata``.   path: their file.
        codebook: of the run folder.

    Raises: MismatchError: a file in the folder is of another run.
    """
    beside = path.with_name("config.yaml")
    with contextlib.suppress(UsageError):
        saved, config = from_dict(metadata["config"], str(path)), load(beside)
        for name, of, here in differences(saved, config):
            raise MismatchError(
                f"{path} was trained with {name} = {of!r}, but {beside} says {here!r}: one of them "
                "is of another run. Restore the files of the run."
            )
    if metadata.get("codebook", codebook.digest) != codebook.digest:  # unknown to earlier versions
        raise MismatchError(
            f"{path} was trained with another codebook than {path.with_name('codebook.json')}: one "
            "of them is of another run. Restore the files of the run."
        )

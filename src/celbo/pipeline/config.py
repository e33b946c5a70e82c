"""The options of a run: frozen dataclasses with one help line a field, and TOML in and out.

The command line is made from these classes and `run.toml` is written from them, so that the three cannot drift. Option
names are unique over all sections: on the command line they stand flat (`--n-latent 20`), in TOML in the table of their
section (`[network] n_latent = 20`) or flat at the top of the file. The options of the network are those of the model
that `model` names: `config_for` gives the class. Models are imported when their options are first made, not before: the
command line must answer `--help` without torch, and takes their options from a copy (`celbo.cli.models`).
"""

from __future__ import annotations

import inspect
import json
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from celbo.data.schema import DataKeys, Orientation
from celbo.errors import InputError, OptionError, listed, nearest
from celbo.training.plan import TrainConfig

__all__ = ["GraphConfig", "Option", "RunConfig", "SelectionConfig", "TrainRunConfig", "config_for", "preset", "system"]

_GROUPS = {
    name: Group(name, sort_key=i)
    for i, name in enumerate(("Data", "Genes and cells", "Model", "Training", "Clusters, maps and markers"), 1)
}
"""Headings of the help, in order."""


MADE_BY = "made_by"
"""The table of `run.toml` that says what made it; it holds no options."""


def _at_least(least: float, name: str, value: float | None) -> None:
    if value is not None and not least <= value < math.inf:
        raise OptionError(
            "has an impossible value", where=f"option {name!r}", value=repr(value), fix=f"At least {least}."
        )


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which genes and cells the model is trained on."""

    n_top_genes: int = 2000
    """Highly variable genes to train on; 0 is all genes."""
    genes: str | None = None
    """File with the genes to train on, one name a line, instead of the highly variable ones."""
    keep_genes: str | None = None
    """File with genes to train on besides, one name a line, whether or not they are highly variable."""
    min_counts: int | None = None
    """Leave out cells with fewer counts."""
    min_genes: int | None = None
    """Leave out cells with fewer genes that have a count."""
    max_percent_mito: float | None = None
    """Leave out cells with more than this percentage of their counts in mitochondrial genes."""

    def __post_init__(self) -> None:
        """Refuse impossible values with an `OptionError` that names the option."""
        for name in ("n_top_genes", "min_counts", "min_genes", "max_percent_mito"):
            _at_least(0, name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """What is computed from the latent space."""

    n_neighbors: int = 15
    """Neighbours of each cell in the graph that Leiden and UMAP use."""
    resolution: float = 0.5
    """Resolution of Leiden: larger gives more and smaller clusters; 0.5 finds cell types rather than their states."""
    min_dist: float = 0.3
    """Smallest distance between points in the UMAP."""
    n_markers: int = 100
    """Genes kept for each cluster in the table of markers, the best first; 0 is all that are higher there."""
    lognorm: bool = True
    """Add the layer lognorm to result.h5ad, log(1 + 10,000 x count / total), for plots of genes."""

    def __post_init__(self) -> None:
        """Refuse impossible values with an `OptionError` that names the option."""
        for name, least in (("n_neighbors", 2), ("resolution", 0), ("min_dist", 0), ("n_markers", 0)):
            _at_least(least, name, getattr(self, name))


Config = TypeVar("Config", bound="TrainRunConfig")


def _scvi_config() -> Any:
    return system("scvi").config_class()


@dataclass(frozen=True, kw_only=True)
class TrainRunConfig:
    """Everything from the file to the trained model."""

    data: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    """Files of counts; several are joined on their shared genes."""
    orientation: Annotated[Orientation, Parameter(group=_GROUPS["Data"])] = "auto"
    """What the rows of a text table (.csv, .tsv, .txt) are: cells or genes; auto tells by their names."""
    out: str | None = None
    """Folder to write to."""
    model: str = "scvi"
    """Model to train: autoencoder, autoimpute, dca, hpf, ldvae, scvae, scvi, scvis, vae or vasc."""
    preset: str | None = None
    """Published configuration of the model to start from, with its training plan, such as paper_2018 of scvi: flags and
    the file of options win over it."""
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    keys: Annotated[DataKeys, Parameter(name="*", group=_GROUPS["Data"])] = field(default_factory=DataKeys)
    """Where in the file the model finds what it needs."""
    selection: Annotated[SelectionConfig, Parameter(name="*", group=_GROUPS["Genes and cells"])] = field(
        default_factory=SelectionConfig
    )
    """Which genes and cells the model is trained on."""
    network: Annotated[Any, Parameter(name="*", group=_GROUPS["Model"])] = field(default_factory=_scvi_config)
    """The model's network; another class for each model, see `config_for`."""
    train: Annotated[TrainConfig, Parameter(name="*", group=_GROUPS["Training"])] = field(default_factory=TrainConfig)
    """How it is trained."""

    def __post_init__(self) -> None:
        """Refuse impossible values with an `OptionError` that names the option."""
        _at_least(0, "seed", self.seed)
        if getattr(self.network, "options_of", None) == self.model:  # the command line's copy
            return
        if not isinstance(self.network, system(self.model).config_class):
            fix = f"Make them with celbo.pipeline.config.config_for({self.model!r}, RunConfig)."
            raise OptionError("are not those of the model", where="the options of the network", fix=fix)


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainRunConfig):
    """Every option of `celbo run`."""

    graph: Annotated[GraphConfig, Parameter(name="*", group=_GROUPS["Clusters, maps and markers"])] = field(
        default_factory=GraphConfig
    )
    """What is computed from the latent space."""


@cache
def config_for(model: str, kind: type[Config]) -> type[Config]:
    """Return the class of options whose network is that of a model, and whose training is its default.

    Parameters
    ----------
    model
        Name of the model on the command line, such as "dca".
    kind
        `RunConfig` or `TrainRunConfig`.

    Raises
    ------
    OptionError
        If there is no such model; the message names the nearest one.
    """
    found = system(model)
    return kind if model == "scvi" else with_network(kind, model, found.config_class, lambda: default_plan(found))


def with_network(kind: type[Config], model: str, network: type[Any], plan: Callable[[], TrainConfig]) -> type[Config]:
    """Return a class of options whose network has the fields of another class.

    Parameters
    ----------
    kind
        `RunConfig` or `TrainRunConfig`.
    model
        Name of the model on the command line.
    network
        Dataclass of the network's options.
    plan
        Makes the training options where none are given.
    """
    own, train = (Parameter(name="*", group=_GROUPS[group]) for group in ("Model", "Training"))
    namespace: dict[str, Any] = {
        "__annotations__": {"model": str, "network": Annotated[network, own], "train": Annotated[TrainConfig, train]},
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,  # where its inherited annotations are read
        "model": model,
        "network": field(default_factory=network),
        "train": field(default_factory=plan),
    }
    made: type[Config] = dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), namespace))
    return made


def default_plan(found: type[Any], config: Any = None) -> TrainConfig:
    """Return the plan that a model follows where none is given, for its default or another configuration.

    Where that depends on the number of cells, it is celbo's plan here, and training puts the model's own in its place.
    """
    model: Any = object.__new__(found)
    model.config, model.data = found.config_class() if config is None else config, None
    try:
        plan: TrainConfig = model.default_plan()
    except InputError:  # it asked for its data
        return TrainConfig()
    return plan


def preset(model: str, name: str) -> dict[str, Any]:
    """Return the options in which a published configuration of a model and its plan differ from the defaults.

    Parameters
    ----------
    model
        Name of the model on the command line.
    name
        Name of the preset: a class method of the model's configuration; its plan is `<name>_plan` of the model, or the
        class method of `TrainConfig` of this name, if there is one.

    Raises
    ------
    OptionError
        If there is none; the message names the nearest one.
    """
    found = system(model)
    known = [key for key, value in vars(found.config_class).items() if isinstance(value, classmethod)]
    if name not in known:
        raise OptionError("is not a preset", where=f"preset {name!r} of {model}", fix=nearest(name, known))
    config = getattr(found.config_class, name)()
    plan = preset_plan(model, name) or default_plan(found, config)
    return {**_changed(config, found.config_class()), **_changed(plan, TrainConfig())}


def preset_plan(model: str, name: str, *, n_cells: int | None = None, n_genes: int | None = None) -> TrainConfig | None:
    """Return the training plan of a preset; None where it has none, or one that needs the number of cells, not given.

    Parameters
    ----------
    model, name
        As in `preset`.
    n_cells, n_genes
        Cells and genes to train on, which some plans depend on.
    """
    made: Any = getattr(system(model), f"{name}_plan", getattr(TrainConfig, name, None))
    if made is None:
        return None
    takes = inspect.signature(made).parameters
    known = {"n_cells": n_cells, "n_genes": n_genes}
    given = {name: value for name, value in known.items() if name in takes and value is not None}
    if any(p.default is p.empty and p.name not in given for p in takes.values()):
        return None
    plan: TrainConfig = made(**given)
    return plan


def default_plan_changes(model: str) -> dict[str, Any]:
    """Return the options in which the default plan of a model differs from that of celbo."""
    return _changed(default_plan(system(model)), TrainConfig())


def _changed(given: Any, usual: Any) -> dict[str, Any]:
    pairs = ((f.name, getattr(given, f.name)) for f in fields(given))
    return {name: value for name, value in pairs if value != getattr(usual, name)}


def system(model: str) -> type[Any]:
    """Return the class of a model by its name on the command line: that of the class in lower case.

    Raises
    ------
    OptionError
        If there is none; the message names the nearest one.
    """
    from celbo.models.store import class_names, model_class

    names = {name.lower(): name for name in class_names()}
    if model not in names:
        raise OptionError("is not a model", where=f"model {model!r}", fix=nearest(model, names))
    return model_class(names[model])


@dataclass(frozen=True)
class Option:
    """One option: where it belongs and what it may hold."""

    section: str | None
    """Table in TOML; None is the top of the file."""
    name: str
    hint: Any
    default: Any


def options_of(kind: type[TrainRunConfig] = RunConfig) -> dict[str, Option]:
    """Return every option of a configuration by its name, which is unique over all sections."""
    return {option.name: option for option in _options(kind, kind(), None)}


def _options(kind: type[Any], defaults: object, section: str | None) -> Iterator[Option]:
    hints = get_type_hints(kind)
    for item in fields(kind):
        value = getattr(defaults, item.name)
        if is_dataclass(value):
            yield from _options(type(value), value, item.name)
        else:
            yield Option(section, item.name, hints[item.name], value)


def flat(config: TrainRunConfig) -> dict[str, Any]:
    """Return the values of all options by name."""
    sections = {name: getattr(config, name) for name in _sections(type(config))}
    return {
        name: getattr(sections[option.section] if option.section else config, name)
        for name, option in options_of(type(config)).items()
    }


def build(kind: type[Config], values: Mapping[str, Any], *, where: str = "the options") -> Config:
    """Build a configuration from options by name; those not given take their defaults.

    Parameters
    ----------
    kind
        The class to build.
    values
        Values by option name, flat over all sections.
    where
        What errors call the place the values came from.

    Raises
    ------
    OptionError
        If a name or a value is impossible; an unknown name is answered with the nearest one.
    """
    known = options_of(kind)
    by_section: dict[str | None, dict[str, Any]] = {None: {}}
    for name, value in values.items():
        option = _known(name, known, where)
        by_section.setdefault(option.section, {})[name] = coerced(value, option.hint, where=where, name=name)
    sections = {name: made(**by_section.get(name, {})) for name, made in _sections(kind).items()}
    return kind(**by_section[None], **sections)


def _sections(kind: type[TrainRunConfig]) -> dict[str, type]:
    """Return the class of each section, by name."""
    return {name: type(value) for name, value in vars(kind()).items() if is_dataclass(value)}


def _known(name: str, known: Mapping[str, Option], where: str) -> Option:
    if name not in known:
        raise OptionError("has an unknown key", where=where, value=repr(name), fix=nearest(name, known))
    return known[name]


def different(one: TrainRunConfig, other: TrainRunConfig) -> list[str]:
    """Return the names of the options in which two configurations differ."""
    ours, theirs = flat(one), flat(other)
    return [name for name in ours if ours[name] != theirs.get(name)]


# ---------------------------------------------------------------------------------------------------------- values


def coerced(value: object, hint: Any, *, where: str, name: str) -> Any:
    """Return a TOML value as the type of its option; "none" is None where the option may be None.

    Raises
    ------
    OptionError
        If it is none of the types the option may have.
    """
    for kind in _kinds(hint):
        if (found := _as(value, kind)) is not _NOT:
            return found
    allowed = ", ".join(_shown(kind) for kind in _kinds(hint))
    raise OptionError(f"has an impossible value for {name!r}", where=where, value=repr(value), fix=f"Give {allowed}.")


_NOT = object()
_LARGEST = 10**300  # of a whole number that stands for a decimal one


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, None first and integers before floats, or the type itself."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(sorted(members, key=lambda kind: [NoneType, bool, int, float].index(kind) if kind in _ORDERED else 9))


_ORDERED = (NoneType, bool, int, float)


def _as(value: object, kind: Any) -> Any:
    """Return the value as one plain type, or `_NOT`."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _NOT
    if get_origin(kind) is tuple:
        return _as_tuple(value, get_args(kind))
    if kind is NoneType:
        return None if value is None or value == "none" else _NOT
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _LARGEST else _NOT
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else _NOT


def _as_tuple(value: object, kinds: tuple[Any, ...]) -> Any:
    """Return a list as a tuple of any length (kinds are a type and ...) or of one of each kind."""
    if not isinstance(value, (list, tuple)):
        return _NOT
    wanted = [kinds[0]] * len(value) if kinds[1:] == (...,) else list(kinds)
    if len(wanted) != len(value):
        return _NOT
    items = tuple(_as(item, kind) for item, kind in zip(value, wanted, strict=True))
    return _NOT if any(item is _NOT for item in items) else items


def _shown(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    names = {NoneType: '"none"', int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(kind, "a list")


# ------------------------------------------------------------------------------------------------------------ TOML


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the options of a TOML file by name, checked and in their types.

    Parameters
    ----------
    path
        A file with options in the tables of their sections, or flat at the top; the table `made_by` is passed over.

    Raises
    ------
    OptionError
        If the file is missing or is not TOML, or if a key or a value is impossible.
    """
    where, parsed = f"{path}", _parsed(path)
    kind = config_for(str(parsed.get("model", "scvi")), RunConfig)
    known = options_of(kind)
    values: dict[str, Any] = {}
    for name, value in parsed.items():
        if name == MADE_BY:
            continue
        inner = value if isinstance(value, dict) else {name: value}
        section = name if isinstance(value, dict) else None
        if section is not None and section not in _sections(kind):
            raise OptionError(
                "has an unknown table", where=where, value=f"[{name}]", fix=nearest(name, _sections(kind))
            )
        for key, given in inner.items():
            option = _known(key, {k: o for k, o in known.items() if section in (None, o.section)}, where)
            values[key] = coerced(given, option.hint, where=where, name=key)
    return values


def made_by(path: str | Path) -> dict[str, Any]:
    """Return what a `run.toml` says of its making: versions, and whether the run came to its end."""
    found = _parsed(path).get(MADE_BY, {})
    return found if isinstance(found, dict) else {}


def _parsed(path: str | Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise OptionError(
            "cannot be read", where=f"{path}", value=str(error.strerror), fix="Check --config."
        ) from error
    except (ValueError, RecursionError) as error:  # a bad number or letter too, and brackets without end
        raise OptionError("is not TOML", where=f"{path}", value=str(error)[:200], fix="Check the file.") from error


def to_toml(config: TrainRunConfig, *, made: Mapping[str, Any] | None = None) -> str:
    """Return all options as TOML, each section a table; None where it is the default is left out.

    Parameters
    ----------
    config
        The options.
    made
        The table `made_by`: plain values by name.
    """
    tables: dict[str | None, list[str]] = {None: []}
    values = flat(config)
    for name, option in options_of(type(config)).items():
        if values[name] is not None or option.default is not None:
            tables.setdefault(option.section, []).append(f"{name} = {_toml_value(values[name])}")
    if made:
        tables[MADE_BY] = [f"{name} = {_toml_value(value)}" for name, value in made.items()]
    parts = ["\n".join([f"[{section}]"] * (section is not None) + lines) for section, lines in tables.items() if lines]
    return "\n\n".join(parts) + "\n"


def _toml_value(value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON's escapes are TOML's, but for the delete character, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def read_genes(path: str | Path, option: str = "--genes") -> list[str]:
    """Read gene names, one a line; empty lines and lines that begin with # are passed over.

    Parameters
    ----------
    path
        The file.
    option
        The flag that named it, for the message.

    Raises
    ------
    OptionError
        If the file cannot be read or holds no name.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            "cannot be read", where=f"genes file {path}", value=str(error), fix=f"Check {option}."
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    odd = next((name for name in names if not name.isprintable()), None)
    if odd is not None:
        value = repr(odd)[:80]
        raise OptionError("holds what is no name", where=f"genes file {path}", value=value, fix="Give one name a line.")
    if not names:
        raise OptionError("holds no gene name", where=f"genes file {path}", fix="Give one name a line.")
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise OptionError(
            "names genes twice", where=f"genes file {path}", value=listed(twice), fix="Give each name once."
        )
    return names

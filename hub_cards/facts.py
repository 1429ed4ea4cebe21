"""What is known of a saved model, gathered from its own files and from those of the run that made it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.digests import other_files
from modeling_dvpo.version import __version__

from .errors import CardError
from .evaluation import Evaluation, finite, read_evaluation
from .metadata import Benchmarks, benchmark_entries
from .origins import Origin, config_of, hub_ancestor, hub_origin, last_part, origin_of, read_object
from .runs import CRITIC_ONLINE, CRITIC_RUN, POLICY_RUN, History, check_same_run, hyperparameters, read_history


class Record(dict):
    """What a run wrote down, of any version: a key that is not there is None."""

    def __missing__(self, key):
        return None


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What critic and policy cards share.

    Attributes:
        name: what `from_pretrained` takes: the repository, or the directory's own name while there is none.
        is_adapter: a LoRA adapter, which needs its base model.
        base: the model under an adapter.
        base_models: Hub models this one is made from, for the metadata.
        datasets: Hub data sets it was trained on, for the metadata.
        chat: it reads chats, not plain text.
        example: a prompt and a response for the snippets.
    """

    name: str
    repo_id: str | None
    is_adapter: bool
    base: Origin | None
    base_models: list[Origin]
    dataset: Origin | None
    dataset_config: str | None
    dataset_split: str | None
    datasets: list[Origin]
    model_type: str | None
    license: str | None
    chat: bool
    example: tuple[str, str]
    rewards: list[str]
    reward_column: str | None
    reward_noise: list[str]
    step: int | None
    settings: list[tuple[str, object]]
    history: History | None
    versions: dict[str, str]
    software_version: str


@dataclass(frozen=True, kw_only=True)
class CriticFacts(ModelFacts):
    """A critic.

    Attributes:
        training: the config's `critic_training`.
        loss: the config's `critic_loss`, with the defaults of what it leaves out; empty where it has none.
        parent: what its training started from; `parent_is_critic` is None where that is unknown.
        policy: the repository of the policy whose completions it judges, else the policy its training names.
        value_support, value_projection: of heads with atoms or a range; empty and None for others.
        has_code: its repository carries the code for `trust_remote_code`.
        held_out: metrics of these very weights on the run's held-out rows.
    """

    num_value_heads: int
    num_quantiles: int
    value_head_type: str
    value_support: list[float]
    value_projection: str | None
    return_mean: float | None
    return_scale: float | None
    loss: Record
    training: Record
    parent: Origin | None
    parent_is_critic: bool | None
    policy: Origin | None
    has_code: bool
    online: bool
    held_out: dict[str, float]
    evaluation: Evaluation | None

    @property
    def has_atoms(self) -> bool:
        """Whether its distribution is one of atoms, learnt by cross-entropy."""
        return self.value_head_type in ("categorical", "bernoulli")


@dataclass(frozen=True, kw_only=True)
class PolicyFacts(ModelFacts):
    """A policy.

    Attributes:
        run: the settings of its training, pair.json's `settings`.
        parent: what its training started from.
        critic: the repository of the critic that belongs to it.
        benchmarks: its scores in the Hub's form.
    """

    run: Record
    parent: Origin | None
    critic: Origin | None
    benchmarks: list


def critic_facts(
    directory,
    *,
    policy_repo: str | None = None,
    evaluation=None,
    run_directory=None,
    pair: dict | None = None,
    **stated,
) -> CriticFacts:
    """Gather the facts of a saved critic; arguments are those of `critic_card`, `stated` what both cards take."""
    directory = Path(directory)
    config = _config(directory)
    if config.get("num_value_heads") is None:
        raise CardError(f"{directory} is no critic: its config.json has no num_value_heads. Use policy_card.")
    _check_pair(pair, "critic", directory)
    training = config.get("critic_training") or {}
    online = "algorithm" in training
    run = dict((pair or {}).get("settings") or {})
    if run and (not online or run.get("critic_trainable") == "none"):
        run, run_directory = {}, None  # a critic that stayed frozen beside its policy was made by another run
    parent = origin_of(training.get("parent"), directory, training.get("parent_revision"))
    history = read_history(run_directory) if run_directory else None
    if history:
        check_same_run(history, _own_settings(training, ("dataset", "seed", "gamma")), directory)
        run = run or history.settings
    record = {key: training[key] for key in training if key not in ("returns", "target", "lam", "gamma")}
    rewards, column = _rewards(training.get("reward_source"), directory)
    return CriticFacts(
        **_shared(directory, config, parent, training, chat=(pair or {}).get("chat"), **stated),
        rewards=rewards,
        reward_column=column,
        reward_noise=list(training.get("reward_noise") or []),
        step=training.get("step"),
        settings=hyperparameters(run or record, CRITIC_ONLINE if online and run else CRITIC_RUN),
        history=history,
        versions=training.get("versions") or {},
        num_value_heads=config["num_value_heads"],
        num_quantiles=config.get("num_quantiles", 200),
        value_head_type=config.get("value_head_type", "linear"),
        value_support=config.get("value_support") or [],
        value_projection=config.get("value_projection"),
        return_mean=config.get("return_mean"),
        return_scale=config.get("return_scale"),
        loss=Record(_whole_loss(config.get("critic_loss"), directory)),
        training=Record(training),
        parent=parent,
        parent_is_critic=_is_critic(parent, training),
        policy=hub_origin(policy_repo) if policy_repo else origin_of(training.get("policy"), directory),
        has_code="auto_map" in config and not _adapter(directory),
        online=online,
        held_out=finite(training.get("evaluation")),
        evaluation=read_evaluation(evaluation, directory) if evaluation else None,
    )


def policy_facts(
    directory,
    *,
    critic_repo: str | None = None,
    pair: dict | None = None,
    run_directory=None,
    benchmarks: Benchmarks = (),
    **stated,
) -> PolicyFacts:
    """Gather the facts of a saved policy; arguments are those of `policy_card`, `stated` what both cards take."""
    directory = Path(directory)
    config = _config(directory)
    if config.get("num_value_heads") is not None:
        raise CardError(f"{directory} is a critic: its config.json has num_value_heads. Use critic_card.")
    _check_pair(pair, "policy", directory)
    run = dict((pair or {}).get("settings") or {})
    history = read_history(run_directory) if run_directory else None
    if history:
        check_same_run(history, _own_settings(run, ("algorithm", "model_name_or_path", "dataset", "seed")), directory)
        run = run or history.settings
    parent = origin_of(run.get("model_name_or_path"), directory, run.get("revision"))
    rewards, column = _rewards(run.get("reward_funcs"), directory)
    return PolicyFacts(
        **_shared(directory, config, parent, run, chat=(pair or {}).get("chat"), **stated),
        rewards=rewards,
        reward_column=column,
        reward_noise=list(run.get("reward_noise") or []),
        step=(pair or {}).get("step"),
        settings=hyperparameters(run, POLICY_RUN),
        history=history,
        versions=(pair or {}).get("versions") or {},
        run=Record(run),
        parent=parent,
        critic=hub_origin(critic_repo) if critic_repo else None,
        benchmarks=benchmark_entries(benchmarks),
    )


def _shared(
    directory: Path,
    config: dict,
    parent: Origin | None,
    made_by: dict,
    *,
    repo_id: str | None,
    license: str | None,
    base_model: str | None,
    datasets: Iterable[str] | None,
    example: tuple[str, str] | None,
    chat: bool | None = None,
) -> dict:
    """The facts of `ModelFacts` that do not depend on the kind of model.

    Args:
        made_by: the record that names the data set.
        chat: whether the policy was given chats, if the run wrote it down: settings do not say, where the data are
            messages.
    """
    adapter = _adapter(directory)
    given = hub_origin(base_model) if base_model else None
    base = None
    if adapter:
        base = given or origin_of(adapter.get("base_model_name_or_path"), directory, adapter.get("revision"))
    ancestor = given or hub_ancestor(base or parent)
    dataset = origin_of(made_by.get("dataset"), directory)
    on_hub = [dataset] if dataset and dataset.on_hub else []
    return {
        "name": hub_origin(repo_id).name if repo_id else directory.resolve().name,
        "repo_id": repo_id,
        "is_adapter": bool(adapter),
        "base": base,
        "base_models": [ancestor] if ancestor else [],
        "dataset": dataset,
        "dataset_config": made_by.get("dataset_config"),
        "dataset_split": made_by.get("dataset_split"),
        "datasets": on_hub if datasets is None else [hub_origin(one) for one in datasets],
        "model_type": config.get("model_type"),
        "license": license,
        "chat": _has_chat_template(directory) if chat is None else chat,
        "example": example or ("What is 2 + 3?", "2 + 3 = 5"),
        "software_version": __version__,
    }


def _config(directory: Path) -> dict:
    if not directory.is_dir():
        raise CardError(f"There is no directory {directory}: give the directory of a saved model.")
    if (directory / "config.json").is_file():
        return read_object(directory / "config.json")
    if (directory / "adapter_config.json").is_file():
        return {}
    raise CardError(f"{directory} has no config.json and no adapter_config.json: give the directory of a saved model.")


def _adapter(directory: Path) -> dict:
    file = directory / "adapter_config.json"
    return read_object(file) if file.is_file() else {}


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").is_file():
        return True
    file = directory / "tokenizer_config.json"
    return file.is_file() and bool(read_object(file).get("chat_template"))


def _check_pair(pair: dict | None, part: str, directory: Path) -> None:
    """Refuse a pair.json that was written for other weights."""
    written = ((pair or {}).get("files") or {}).get(part) or {}
    if changed := other_files(written, directory):
        raise CardError(
            f"The pair.json given is of another {part} than {directory}: {', '.join(changed)} differ or are missing. "
            "Give the pair.json that was saved beside it, or none."
        )


def _own_settings(record: dict, names) -> dict:
    return {name: record[name] for name in names if record.get(name) is not None}


def _rewards(source, near) -> tuple[list[str], str | None]:
    """Names of reward functions and models without local paths, or the column that held the rewards."""
    if isinstance(source, str):
        column = re.fullmatch(r"column '(.*)'", source, re.DOTALL)
        if column:
            return [], column[1]
        source = [source]
    origins = {name: origin_of(name, near) for name in source or [] if "/" in name or "\\" in name}
    return [origin.name if (origin := origins.get(name)) else last_part(name) for name in source or []], None


def _is_critic(parent: Origin | None, training: dict) -> bool | None:
    """Whether the parent was a critic: its config says so, or that it was not the policy it was trained beside."""
    config = config_of(parent)
    if config:
        return config.get("num_value_heads") is not None
    if training.get("policy") and training["policy"] != training.get("parent"):
        return True
    return None


def _whole_loss(given: dict | None, directory: Path) -> dict:
    if not given:
        return {}
    try:
        return CriticLossConfig.from_dict(given).to_dict()
    except (TypeError, ValueError) as error:
        raise CardError(f"The critic_loss in config.json of {directory} is {given!r}: {error}") from error

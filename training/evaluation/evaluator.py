"""Everything between the settings of an evaluation and its evaluation.json, in the order it happens."""

import json
from importlib.util import find_spec
from pathlib import Path

import torch

from modeling_dvpo.critic.losses import TERMS
from modeling_dvpo.ranks import barrier, is_main, world_size

from ..algorithms.targets import dataset_returns
from ..data.arguments import RewardDataArguments
from ..data.layout import require_room
from ..data.prompts import Prompts, load_prompts
from ..data.reward_sets import load_reward_data
from ..engine.distributed import main_process_first
from ..models.critics import load_config_and_tokenizer, load_critic
from ..models.files import files_of
from ..models.policies import base_of, load_policy
from ..models.records import versions
from ..rewards.functions import import_function, load_reward_function, reward_names
from ..rollouts.samples import Scorer
from ..run.directory import claim_run_directory
from .arguments import (
    EvaluationArguments,
    MonteCarloArguments,
    NamedSet,
    SetArguments,
    critic_source,
    policy_source,
)
from .document import as_markdown
from .figures import draw
from .likelihood import Likelihood
from .measure import measure
from .monte_carlo import MonteCarlo
from .parts import Parts, cut
from .predictions import Predictor
from .sets import EvaluationSet, recorded_likelihood, response_texts, reward_set
from .sources import (
    digest_of_rows,
    discount,
    require_critic,
    require_same_tokenizer,
    require_scalar,
)

ARGUMENTS = (EvaluationArguments, SetArguments, MonteCarloArguments)
FORMAT = 1  # of evaluation.json


class Evaluation:
    """Everything between the settings and evaluation.json, in the order it happens."""

    def __init__(self, args, data_args, sampling, sets: list[NamedSet], settings: dict, device):
        self.args, self.data_args, self.sampling = args, data_args, sampling
        self.settings, self.device = settings, device
        self.folder = Path(args.output_dir)
        # Configs, then data, then weights: bad input is named as early as it can be.
        self.answer_of = import_function(args.answer_func, "answer function") if args.answer_func else None
        self.find_critics()
        self.gamma = discount(self.configs["critic"], args.gamma)
        self.rows = {one: self.load_rows(one) for one in sets if one.kind == "returns"}
        self.training_returns = None
        if data_args.training_dataset:
            self.training_returns = dataset_returns(self.read(data_args.reading_training_set()), self.gamma)
        self.prompts = {one: self.load_prompts(one) for one in sets if one.kind == "monte_carlo"}
        score = self.load_scorer() if self.prompts else None
        self.sets = sets
        self.critics = {who: load_critic(source) for who, source in self.sources.items()}
        self.policy = load_policy(self.policy_source).requires_grad_(False) if sampling.policy else None
        self.sampler = self.make_sampler(score) if score else None

    def find_critics(self) -> None:
        args = self.args
        source = critic_source(args.critic, args.critic_revision, args)
        config, self.tokenizer = load_config_and_tokenizer(source)
        require_critic(config, args.critic, "critic")
        self.sources, self.configs = {"critic": source}, {"critic": config}
        if args.scalar_critic:
            source = critic_source(args.scalar_critic, args.scalar_critic_revision, args)
            config, _ = require_same_tokenizer(source, self.tokenizer, args.critic, "scalar_critic")
            require_critic(config, args.scalar_critic, "scalar_critic")
            require_scalar(config, args.scalar_critic)
            self.sources["scalar"], self.configs["scalar"] = source, config
        if self.sampling.policy:
            self.policy_source = policy_source(self.sampling, args)
            base = base_of(self.policy_source)
            found = require_same_tokenizer(base, self.tokenizer, args.critic, "policy")
            self.policy_config, self.policy_tokenizer = found

    def read(self, reading: RewardDataArguments):
        rows, _ = load_reward_data(reading, self.tokenizer, model_config=self.configs["critic"])
        return rows

    def load_rows(self, named: NamedSet):
        rows = self.read(self.data_args.reading(named.where))
        self.require_room(max(rows["length"]), named)
        return rows

    def require_room(self, longest: int, named: NamedSet) -> None:
        require_room(longest, self.args.max_tokens_per_device, f"the longest row of {named.name!r}")

    def load_prompts(self, named: NamedSet) -> Prompts:
        length = self.sampling.max_completion_length
        with main_process_first():
            prompts = load_prompts(
                named.where,
                self.data_args.dataset_split,
                self.sampling.reading(named.where, self.data_args),
                self.policy_tokenizer,
                config=self.data_args.dataset_config,
                model_config=self.policy_config,
                max_completion_length=length,
            )
        self.require_room(max(prompts.tokens["length"]) + length, named)
        return prompts

    def load_scorer(self) -> Scorer:
        functions = [load_reward_function(name) for name in self.data_args.reward_funcs]
        return Scorer(dict(zip(reward_names(functions), functions, strict=True)), self.data_args.reward_weights, ())

    def make_sampler(self, score: Scorer) -> MonteCarlo:
        options = {"gamma": self.gamma, "seed": self.args.seed}
        return MonteCarlo(self.policy, self.policy_tokenizer, score, self.sampling, **options)

    def run(self) -> None:
        args = self.args
        claim_run_directory(self.folder, self.settings, resume=args.resume, overwrite=args.overwrite_output_dir)
        barrier()
        self.say(
            f"{type(self.critics['critic']).__name__} {args.critic}: gamma {self.gamma:g}, {len(self.sets)} set(s), "
            f"{world_size()} process(es) on {self.device}"
        )
        self.draws = find_spec("matplotlib") is not None
        if not self.draws:
            self.say("There will be no figures: matplotlib is not installed (pip install matplotlib).")
        self.files = {who: files_of(source) for who, source in self.sources.items()}
        sets = [self.reward_set(one) for one in self.rows]
        likelihoods = {data.named: recorded_likelihood(data) for data in sets}
        if self.policy is not None:
            self.policy.to(self.device)
            if self.args.bf16:
                self.policy.bfloat16()
            files, _ = files_of(self.policy_source)
            likelihoods |= {data.named: self.likelihood(data, files) for data in sets if data.has_several}
            sets += self.sampled_sets(files)
            self.policy.to("cpu")  # makes room for the critics
        sets = sorted(sets, key=lambda data: self.sets.index(data.named))
        found = self.predict(sets)
        measured = [self.measured(data, *found[data.named], likelihoods.get(data.named)) for data in sets]
        if is_main():
            self.write(measured)

    def reward_set(self, named: NamedSet) -> EvaluationSet:
        return reward_set(named, self.rows[named], self.gamma, self.data_args.subset_column)

    def sampled_sets(self, policy_files: dict[str, str]) -> list[EvaluationSet]:
        if self.sampler is None:
            return []
        sampler, facts, subset_column = self.sampler, {"policy": policy_files}, self.data_args.subset_column
        return [
            sampler.sample(named, prompts, self.parts_folder(named), facts, subset_column)
            for named, prompts in self.prompts.items()
        ]

    def likelihood(self, data: EvaluationSet, policy_files: dict[str, str]) -> torch.Tensor:
        """(R,) log-probability of each response under the policy."""
        read = Likelihood(self.policy, self.tokenizer, max_tokens=self.args.max_tokens_per_device, device=self.device)
        parts = Parts(
            self.parts_folder(data.named), "likelihood", {"policy": policy_files, "rows": digest_of_rows(data.rows)}
        )
        cuts = cut(data.states.tolist(), self.args.states_per_part)
        parts.fill(
            len(cuts),
            lambda number: {"likelihood": read([data.rows[i] for i in cuts[number]])},
            f"{data.named.name}: policy",
        )
        return torch.cat([parts.load(number)["likelihood"] for number in range(len(cuts))])

    def parts_folder(self, named: NamedSet) -> Path:
        return self.folder / "parts" / named.name

    def predict(self, sets: list[EvaluationSet]) -> dict[NamedSet, tuple[list[range], dict[str, Parts]]]:
        """Rows of each part and the critics' predictions there, by set."""
        cuts = {data.named: cut(data.states.tolist(), self.args.states_per_part) for data in sets}
        found: dict[NamedSet, tuple[list[range], dict[str, Parts]]]
        found = {named: (rows, {}) for named, rows in cuts.items()}
        for who, critic in self.critics.items():
            predict = Predictor(
                critic,
                self.tokenizer,
                max_tokens=self.args.max_tokens_per_device,
                bf16=self.args.bf16,
                device=self.device,
            )
            for data in sets:
                rows = cuts[data.named]
                facts = {"weights": self.files[who][0], "rows": digest_of_rows(data.rows)}
                parts = Parts(self.parts_folder(data.named), who, facts)

                def make(number, data=data, rows=rows, predict=predict):
                    return {"quantiles": predict([data.rows[i] for i in rows[number]])}

                parts.fill(len(rows), make, f"{data.named.name}: {who}")
                found[data.named][1][who] = parts
            critic.to("cpu")
        return found

    def measured(
        self,
        data: EvaluationSet,
        rows: list[range],
        predictions: dict[str, Parts],
        likelihood: torch.Tensor | None,
    ) -> dict:
        right = data.right(self.args.right_above)
        if right is None:
            self.say(
                f"{data.named.name}: its rewards do not say which responses are right and which are wrong, so there "
                "is no AUC; right_above can say."
            )
        answers = None
        if self.answer_of and data.has_several:
            answers = [self.answer_of(text) for text in response_texts(data.rows, self.tokenizer)]
        return {
            "name": data.named.name,
            "domain": data.named.domain,
            "dataset": data.named.where,
            "rows": len(data.states),
            "prompts": len(set(data.prompts)),
            "states": len(data.returns),
            "truth": data.named.kind,
            "continuations": data.returns.shape[1] if data.returns.dim() == 2 else None,
            **measure(
                data,
                rows,
                predictions,
                self.configs,
                self.training_returns,
                right,
                others={} if likelihood is None else {"likelihood": likelihood},
                answers=answers,
            ),
        }

    def write(self, sets: list[dict]) -> None:
        files, revision = self.files["critic"]
        loss_config = self.critics["critic"].critic_loss_config
        evaluation = {
            "format": FORMAT,
            "critic": self.args.critic,
            "revision": revision,
            "critic_files": files,
            "versions": versions(),
            "settings": self.settings,
            "gamma": self.gamma,
            "constant_from": self.data_args.training_dataset,
            "loss_weights": {name: getattr(loss_config, name) for name in TERMS},
            "sets": sets,
        }
        evaluation["figures"] = draw(evaluation, self.folder) if self.draws else {}
        page = as_markdown(evaluation)
        (self.folder / "evaluation.md").write_text(page, encoding="utf-8")
        # last, and in one go: who finds it finds all of it
        partial = self.folder / "evaluation.json.partial"
        partial.write_text(json.dumps(evaluation, indent=1), encoding="utf-8")
        partial.replace(self.folder / "evaluation.json")
        self.say(page + f"\n{self.folder / 'evaluation.json'}")

    def say(self, text: str) -> None:
        if is_main():
            print(text, flush=True)

"""Everything between the settings of `sample.py` and a reward set, in the order it happens."""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from modeling_dvpo.ranks import barrier, is_main, rank, world_size

from ..data.fingerprints import prompt_facts, require_same_data
from ..data.prompts import load_prompts
from ..engine.distributed import gather_lists, main_process_first
from ..models.critics import load_config_and_tokenizer
from ..models.files import weights_of_policy
from ..models.policies import base_of, load_policy
from ..models.records import versions
from ..rewards.functions import load_reward_function, reward_names
from ..rewards.noise import parse_reward_noise
from ..rollouts.samples import Scorer
from ..run.directory import claim_run_directory
from ..run.tracking import on_terminal
from .arguments import (
    SampleArguments,
    SampledPolicyArguments,
    SampledPromptArguments,
    SampledRewardArguments,
    SampledRolloutArguments,
)
from .reward_rows import REPLACED, RowSampler
from .shards import Shards

ARGUMENTS = (
    SampledPolicyArguments,
    SampledPromptArguments,
    SampledRolloutArguments,
    SampledRewardArguments,
    SampleArguments,
)
REWARD_SET = "reward_set.jsonl"
SOURCES = "sources.json"  # what the rows are made from, beside the settings in run.json


class SampleRun:
    """A reward set from a policy; each rank samples whole batches with the whole policy."""

    def __init__(self, policy_args, prompt_args, rollout_args, reward_args, args, *, settings, device):
        self.args, self.settings, self.device = args, settings, device
        self.folder = Path(args.output_dir)
        # Prompts and rewards first: bad input is named before any weights are read.
        config, self.tokenizer = load_config_and_tokenizer(base_of(policy_args))
        with main_process_first():
            self.prompts = load_prompts(
                prompt_args.dataset,
                prompt_args.dataset_split,
                prompt_args,
                self.tokenizer,
                config=prompt_args.dataset_config,
                model_config=config,
                max_completion_length=rollout_args.max_completion_length,
            )
        functions = [load_reward_function(name) for name in reward_args.reward_funcs]
        named = dict(zip(reward_names(functions), functions, strict=True))
        noises = parse_reward_noise(reward_args.reward_noise, seed=args.seed)
        self.score = Scorer(named, reward_args.reward_weights, noises) if named else None
        if self.score:
            self.score.trainer_state.is_world_process_zero = is_main()
        policy = load_policy(policy_args, dtype=torch.bfloat16 if args.bf16 else torch.float32).to(device)
        fingerprint, files = weights_of_policy(policy_args)
        self.sources = {"policy": fingerprint, **prompt_facts(self.prompts, "sampled")}
        self.files = files
        options = {"seed": args.seed, "fingerprint": fingerprint}
        self.rows = RowSampler(policy, self.tokenizer, rollout_args, self.score, **options)
        self.shards = Shards(self.folder / "shards")
        self.say(
            f"{type(policy).__name__} {fingerprint}: {len(self.prompts):,} prompts, {rollout_args.num_generations} "
            f"completions each; {world_size()} process(es) on {device}"
        )
        others = [name for name in self.prompts.rows.column_names if name != self.prompts.column]
        if replaced := [name for name in others if name in REPLACED]:
            self.say(f"Rows have columns of their own in place of the prompts' {', '.join(replaced)}.")

    def run(self) -> None:
        args, output = self.args, self.folder / REWARD_SET
        claim_run_directory(self.folder, self.settings, resume=args.resume, overwrite=args.overwrite_output_dir)
        barrier()
        self.claim_sources()
        barrier()
        if output.exists():
            self.say(f"{output} is complete.")
            return
        # what rank 0 sees before anybody writes: all ranks must deal out the same list
        done = set(gather_lists(sorted(self.shards.recover()) if is_main() else []))
        if done:
            self.say(f"{len(done):,} prompts are there from before")
        batches = self.rows.batches(self.prompts.tokens["length"][:])
        self.sample([batch for batch in batches if not done.issuperset(batch)][rank() :: world_size()], done)
        logged = self.score.take_metrics() if self.score else {}
        barrier()
        if is_main():
            totals = Totals()
            totals.add(self.shards.merge(output))
            more = "".join(f", {name} {value:.4g}" for name, value in logged.items())
            self.say(f"{totals.rows:,} rows in {output}: {totals}{more}")

    def claim_sources(self) -> None:
        """Keep what the rows are made from, or compare it with what those before were made from."""
        path = self.folder / SOURCES
        if path.exists():
            require_same_data(json.loads(path.read_text(encoding="utf-8"))["sources"], self.sources, self.folder)
        barrier()
        if is_main() and not path.exists():
            record = {"sources": self.sources, "policy_files": self.files, "versions": versions()}
            path.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def sample(self, batches: list[list[int]], done: set[int]) -> None:
        """This rank's share; rank 0 shows how far its own is, on a bar or in ten lines."""
        totals, count, watched = Totals(), sum(map(len, batches)), is_main() and on_terminal()
        with tqdm(total=count, desc="prompts", dynamic_ncols=True, disable=not watched) as bar:
            answered = 0
            for batch in batches:
                rows = self.rows([self.prompts[place] for place in batch])
                self.shards.write(pair for pair in zip(batch, rows, strict=True) if pair[0] not in done)
                for own in rows:
                    totals.add(own)
                bar.set_postfix(totals.means(), refresh=False)
                bar.update(len(batch))
                tenth, answered = answered * 10 // count, answered + len(batch)
                if not watched and answered * 10 // count > tenth:
                    self.say(f"{answered:,} of {count:,} prompts of rank 0: {totals}")

    def say(self, text: str) -> None:
        if is_main():
            tqdm.write(text)
            sys.stdout.flush()  # a file's lines would wait for each other


class Totals:
    """Means over rows."""

    def __init__(self):
        self.rows, self.sums = 0, dict.fromkeys(("reward", "completion_length", "truncated"), 0.0)

    def add(self, rows: Iterable[dict]) -> None:
        for row in rows:
            self.rows += 1
            self.sums["reward"] += row.get("reward", math.nan)
            self.sums["completion_length"] += len(row["completion_ids"])
            self.sums["truncated"] += row["truncated"]

    def means(self) -> dict[str, float]:
        """Of the reward only where there is one."""
        return {name: total / self.rows for name, total in self.sums.items() if not math.isnan(total)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.means().items())

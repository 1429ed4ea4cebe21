"""What the study runs: methods, noises, tasks, and the named grids made of them.

Everything that was chosen or tuned stands here: `SHARED` holds for all methods, `CRITIC` for those with a critic, and
`METHODS` lists what one has of its own. What is named nowhere is a default of `train_dvpo.py`.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.training.tasks import arithmetic, dialogue, knowledge

SHARED: dict[str, Any] = {
    "generation_batch_size": 256,
    "num_mini_batches": 4,
    "learning_rate": 1e-4,
    "logging_steps": 1,
}
"""Flags of `train_dvpo.py` for every method."""

GROUPS: dict[str, Any] = {"prompts_per_step": 16, "num_generations": 8}
"""128 completions a step for methods that compare the completions of a prompt, and for majority votes."""

DISTINCT: dict[str, Any] = {"prompts_per_step": 128, "num_generations": 1}
"""The same number for methods that need no groups: a critic learns faster from 128 prompts than from 16."""

CRITIC: dict[str, Any] = {
    **DISTINCT,
    "critic_learning_rate": 3e-4,
    "heads_learning_rate": 3e-3,
    "num_critic_epochs": 2,
    "critic_lam": 0.95,  # below 1 the targets are distributions, as the paper's are; at 1 they are single returns
}
"""Flags for every method with a critic."""


@dataclass(frozen=True)
class Method:
    """A name for a set of flags."""

    label: str
    flags: dict[str, Any]
    """Flags of `train_dvpo.py` beyond `SHARED`, all of them: nothing else differs between two methods."""

    @property
    def algorithm(self) -> str:
        return self.flags["algorithm"]


def _dvpo(**flags: Any) -> dict[str, Any]:
    return {"algorithm": "dvpo", **CRITIC, **flags}


def _without(*terms: str) -> dict[str, Any]:
    """DVPO with some weights of the critic's loss at 0."""
    return _dvpo(critic_loss=dict.fromkeys(terms, 0.0))


_SHAPE, _SHIFT, _TAIL = ("shape", "curvature"), ("shift",), ("cvar", "gain")

METHODS = {
    "dvpo": Method("DVPO", _dvpo()),
    "dvpo_paper": Method("DVPO, paper's loss", _dvpo(critic_loss=CriticLossConfig.paper().to_dict())),
    "ppo": Method("PPO", {"algorithm": "ppo", **CRITIC}),
    "grpo": Method("GRPO", {"algorithm": "grpo", **GROUPS}),
    "dr_grpo": Method("Dr. GRPO", {"algorithm": "dr_grpo", **GROUPS}),
    "reinforce_plus_plus": Method("REINFORCE++", {"algorithm": "reinforce_plus_plus", **DISTINCT}),
    "robust_bellman": Method("Robust Bellman", {"algorithm": "robust_bellman", **CRITIC}),
    # the ablation of the paper's table, a row adding to the one before; the last row is dvpo itself
    "dvpo_core": Method("core (quantile, risk)", _without("consistency", *_TAIL, *_SHIFT, *_SHAPE)),
    "dvpo_consistency": Method("+ consistency", _without(*_TAIL, *_SHIFT, *_SHAPE)),
    "dvpo_tail": Method("+ tail calibration", _without(*_SHIFT, *_SHAPE)),
    "dvpo_shift": Method("+ shift", _without(*_SHAPE)),
    # with λ = 1 a critic is a baseline and nothing else: what it has not learnt takes no credit from early tokens
    "dvpo_lam1": Method("DVPO, λ = 1", _dvpo(lam=1.0)),
    "ppo_lam1": Method("PPO, λ = 1", {"algorithm": "ppo", **CRITIC, "lam": 1.0}),
    # value pretraining: 30 steps more, in which the critic alone learns
    "dvpo_pretrained": Method("DVPO, critic pretrained", _dvpo(critic_warmup_steps=30)),
    "ppo_pretrained": Method("PPO, critic pretrained", {"algorithm": "ppo", **CRITIC, "critic_warmup_steps": 30}),
    # the critic alone: how much of a distribution it learns
    "dvpo_scalar": Method("DVPO, scalar critic", _dvpo(num_quantiles=1)),
    "dvpo_quantile": Method("DVPO, quantile loss only", _without("risk", "consistency", *_TAIL, *_SHIFT, *_SHAPE)),
}

COMPARISONS = {
    "Methods": ("dvpo", "dvpo_paper", "ppo", "grpo", "dr_grpo", "reinforce_plus_plus", "robust_bellman"),
    "Ablation of the critic's loss": ("dvpo_core", "dvpo_consistency", "dvpo_tail", "dvpo_shift", "dvpo"),
    "λ of the advantages": ("dvpo", "dvpo_lam1", "ppo", "ppo_lam1", "reinforce_plus_plus"),
    "Value pretraining (half as many samples more)": ("dvpo", "dvpo_pretrained", "ppo", "ppo_pretrained"),
    "Distributional and scalar critic, all else equal": ("dvpo_scalar", "dvpo_quantile", "dvpo"),
}
"""The report's tables: which methods stand in one. Every method is in one at least."""
REFERENCE = "dvpo"
"""The method that the others are held against, seed by seed."""


@dataclass(frozen=True)
class Task:
    """A task with exact verifiers, and the imitation policy every method starts from."""

    module: ModuleType
    """Of `modeling_dvpo.training.tasks`. The first of its STUDY_DOMAINS is trained on and its held-out side is the
    in-domain evaluation; the imitation policy has seen them all."""
    flags: dict[str, Any]
    """Flags of `train_dvpo.py` that belong to the task."""
    preparation: dict[str, Any]
    """Settings of the imitation policy, and numbers of prompts: to train on, and held out in each domain."""
    reward: str = "exact_reward"
    """The clean reward, a function of `module`: its mean is the accuracy that is reported."""

    @property
    def domains(self) -> tuple[str, ...]:
        return self.module.STUDY_DOMAINS

    @property
    def train_domain(self) -> str:
        return self.domains[0]

    @property
    def out_of_domain(self) -> tuple[str, ...]:
        return self.domains[1:]


_PROMPTS = {"train_prompts": 4000, "eval_prompts": 200}

TASKS = {
    "arithmetic": Task(arithmetic, {"max_completion_length": 64}, {"num_steps": 800, "carelessness": 0.3, **_PROMPTS}),
    "knowledge": Task(knowledge, {"max_completion_length": 48}, {"num_steps": 800, "carelessness": 0.3, **_PROMPTS}),
    "dialogue": Task(
        dialogue,
        # the length is that of a conversation, the user's turns included
        {"max_completion_length": 96, "environment": f"{dialogue.__name__}:environment"},
        {"num_steps": 1000, "learning_rate": 2e-3, "carelessness": 0.15, **_PROMPTS},
        reward="task_completion",
    ),
}


@dataclass(frozen=True)
class Run:
    """One training run's identity. `noise` is what `--reward_noise` takes, several joined by " + "; `majority_vote`
    alone votes with the task's own `stated_answer`."""

    method: str
    noise: str
    seed: int
    task: str

    def __str__(self) -> str:
        return f"{self.task}, {self.noise}, {self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """All methods × noises × tasks × seeds, each policy updated for the same number of steps."""

    methods: Sequence[str]
    noises: Sequence[str]
    seeds: Sequence[int]
    tasks: Sequence[str] = ("arithmetic",)
    max_steps: int = 60
    eval_steps: int = 20
    preparation: dict[str, Any] = field(default_factory=dict)
    """Changes to what a task says of its policy and prompts, for short runs."""

    def __post_init__(self):
        for kind, names, known in (("method", self.methods, METHODS), ("task", self.tasks, TASKS)):
            for name in names:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
                    raise ValueError(f"Unknown {kind} {name!r}; {hint}")
        for name in ("methods", "noises", "seeds", "tasks"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"A grid needs {name}, each once, got {list(values)}.")
        for name in ("max_steps", "eval_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that a grid cut short is still balanced."""
        for seed in self.seeds:
            for task in self.tasks:
                for noise in self.noises:
                    for method in self.methods:
                        yield Run(method, noise, seed, task)

    def settings(self, run: Run) -> dict[str, Any]:
        """All that decides a run's outcome beside the code: {"preparation": ..., "flags": ...}; files are not named,
        the preparation makes them."""
        task = TASKS[run.task]
        flags = {
            **METHODS[run.method].flags,
            **(GROUPS if "majority_vote" in run.noise else {}),
            **SHARED,
            **task.flags,
            "reward_funcs": [f"{task.module.__name__}:{task.reward}"],
            "reward_noise": [_full_spec(spec, task) for spec in run.noise.split(" + ")],
            # as many steps for every policy
            "max_steps": self.max_steps + METHODS[run.method].flags.get("critic_warmup_steps", 0),
            "eval_steps": self.eval_steps,
            "seed": run.seed,
        }
        return {"preparation": self.preparation_of(run.task), "flags": flags}

    def preparation_of(self, name: str) -> dict[str, Any]:
        return {"domains": list(TASKS[name].domains), **TASKS[name].preparation, **self.preparation}


def _full_spec(spec: str, task: Task) -> str:
    return f"majority_vote={task.module.__name__}:stated_answer" if spec == "majority_vote" else spec


_FLIPS = ("flip=0", "flip=0.2", "flip=0.4")

GRIDS = {
    "main": Grid(("dvpo", "dvpo_paper", "ppo", "grpo", "reinforce_plus_plus"), _FLIPS, range(5)),
    "ablation": Grid(COMPARISONS["Ablation of the critic's loss"], ("flip=0.2",), range(5)),
    "scalar": Grid(COMPARISONS["Distributional and scalar critic, all else equal"], _FLIPS, range(5)),
    "clean": Grid(COMPARISONS["Methods"], ("flip=0",), range(3)),
    "lam": Grid(COMPARISONS["λ of the advantages"], ("flip=0.2", "flip=0.4"), range(5)),
    "pretraining": Grid(COMPARISONS["Value pretraining (half as many samples more)"], _FLIPS, range(5)),
    "structured": Grid(
        COMPARISONS["Methods"],
        (
            "false_positive=0.3",
            "false_negative=0.3",
            "gaussian=0.5",
            "length_bias=0.01",
            "hackable=answer 7",  # the policy happens upon it, and is always paid for it
            "majority_vote",
        ),
        range(3),
    ),
    "quick": Grid(
        ("dvpo", "ppo", "grpo", "reinforce_plus_plus"),
        ("flip=0", "flip=0.2"),
        range(1),
        max_steps=40,
        eval_steps=20,
        preparation={"eval_prompts": 100},
    ),
}

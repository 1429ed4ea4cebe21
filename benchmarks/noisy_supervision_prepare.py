"""What all methods of one seed share: an imitation policy, prompts to train on, and held-out prompts of each domain.

Run by `noisy_supervision.py` as a process of its own, once for each task and seed.
"""

import argparse
import json
import shutil
from pathlib import Path

from noisy_supervision_grid import TASKS

from modeling_dvpo.training.tasks import imitation

STAMP = "prepared.json"


def is_prepared(directory: Path, preparation: dict) -> bool:
    """Whether the directory is there, complete and of these settings.

    Raises:
        ValueError: it was prepared with other settings.
    """
    stamp = directory / STAMP
    if not stamp.is_file():
        return False
    found = json.loads(stamp.read_text(encoding="utf-8"))
    if found != preparation:
        raise ValueError(
            f"{directory} was prepared with {found}, now asked for are {preparation}; choose another --work_dir or "
            "delete it."
        )
    return True


def prepare(task_name: str, seed: int, directory: Path, preparation: dict) -> None:
    """Writes `policy/`, `train.jsonl` and `<domain>.jsonl`, and the stamp last: a directory without it is not used."""
    task = TASKS[task_name]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    settings = dict(preparation)
    domains, train_prompts, eval_prompts = (settings.pop(k) for k in ("domains", "train_prompts", "eval_prompts"))

    training = task.module.prompt_rows(train_prompts, seed=seed, domain=task.train_domain)
    _write_rows(directory / "train.jsonl", training)
    for domain in domains:
        held_out = task.module.prompt_rows(eval_prompts, seed=seed, domain=domain, held_out=True)
        _write_rows(directory / f"{domain}.jsonl", held_out)
    demonstrations = task.module.demonstrations(seed=seed, domain=domains, carelessness=settings.pop("carelessness"))
    imitation.train_policy(demonstrations, task.module.tokenizer(), directory / "policy", seed=seed, **settings)
    (directory / STAMP).write_text(json.dumps(preparation), encoding="utf-8")


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--preparation", type=json.loads, required=True)
    options = parser.parse_args()
    prepare(options.task, options.seed, options.directory, options.preparation)

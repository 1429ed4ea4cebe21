import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

# The benchmark is run as `python benchmarks/noisy_supervision.py`: its modules import each other from that directory.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import noisy_supervision  # noqa: E402
from noisy_supervision_figure import CURVES, STYLES, learning_curve, plot_learning_curves  # noqa: E402
from noisy_supervision_grid import COMPARISONS, GRIDS, METHODS, SHARED, TASKS, Grid, Run  # noqa: E402
from noisy_supervision_prepare import STAMP, is_prepared, prepare  # noqa: E402
from noisy_supervision_report import (  # noqa: E402
    BEGIN,
    END,
    bootstrap_interval,
    final_scores,
    finished,
    has_collapsed,
    paired_difference,
    report,
    write_between_markers,
)
from noisy_supervision_runs import (  # noqa: E402
    Workplace,
    append_result,
    as_arguments,
    in_parallel,
    read_metrics,
    read_results,
    still_to_run,
    summary,
)

from modeling_dvpo.critic.losses import TERMS, CriticLossConfig  # noqa: E402
from modeling_dvpo.training import train_dvpo  # noqa: E402
from modeling_dvpo.training.rollouts.environments import load_environment  # noqa: E402

TASK = TASKS["arithmetic"]
TWO_METHODS = Grid(("dvpo", "ppo"), ("flip=0", "flip=0.4"), (0, 1), max_steps=4, eval_steps=2)

FAKE_TRAINER = """
import json, os, sys
from pathlib import Path

arguments, flags = sys.argv[1:], {}
for argument in arguments:
    if argument.startswith("--"):
        values = flags[argument[2:]] = []
    else:
        values.append(argument)
print("loading", *arguments)
if flags["algorithm"] == ["ppo"] and flags["seed"] == ["1"]:
    sys.exit("the loss is not finite")
assert os.environ["OMP_NUM_THREADS"] == "1"
out = Path(flags["output_dir"][0])
(out / "checkpoints").mkdir(parents=True)
last, every = int(flags["max_steps"][0]), int(flags["eval_steps"][0])
with (out / "metrics.jsonl").open("w") as file:
    for step in range(last + 1):
        line = {"step": step}
        if step:
            line |= {"reward": 0.5, "reward/exact_reward": 0.1 * step, "kl": 0.01 * step}
            line |= {"seconds": 2.0, "samples": 128 * step}
        if step % every == 0 or step == last:
            line |= {f"eval/{Path(p).stem}/exact_reward": 0.2 + 0.1 * step for p in flags["eval_dataset"]}
        file.write(json.dumps(line) + "\\n")
"""


@pytest.fixture
def workplace(tmp_path):
    """With the fake trainer, and policies said to be prepared."""
    trainer = tmp_path / "trainer.py"
    trainer.write_text(FAKE_TRAINER)
    workplace = Workplace(tmp_path / "work", trainer)
    for run in TWO_METHODS.runs():
        workplace.data(run).mkdir(parents=True, exist_ok=True)
        (workplace.data(run) / STAMP).write_text(json.dumps(TWO_METHODS.preparation_of(run.task)))
    return workplace


def record(run, final, *, start=0.5, ood=None, status="ok"):
    """A finished run with the same accuracy in each domain, or another out of domain."""
    ood = final if ood is None else ood
    accuracies = {domain: ood for domain in TASK.domains} | {TASK.train_domain: final}
    return {
        **dataclasses.asdict(run),
        "status": status,
        "settings": TWO_METHODS.settings(run),
        "samples": 512,
        "learning_curve": [{"step": 0, **dict.fromkeys(TASK.domains, start)}, {"step": 4, **accuracies}],
        "final": accuracies,
        "training_curve": [{"step": 4, "reward": 0.4, "clean_reward": 0.6}],
        "training_end": {"reward": 0.4, "kl": 0.02},
        "seconds_per_step": 1.5,
    }


def run_of(method="dvpo", seed=0, noise="flip=0.4"):
    return Run(method, noise, seed, "arithmetic")


def results_of(method, finals, noise="flip=0.4", **settings):
    runs = [run_of(method, seed, noise) for seed in range(len(finals))]
    return {run: record(run, final, **settings) for run, final in zip(runs, finals, strict=True)}


# --- the grid ---------------------------------------------------------------------------------------------------


def test_seeds_are_the_outermost_loop():
    runs = list(TWO_METHODS.runs())
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert {(run.method, run.noise) for run in runs[:4]} == {(run.method, run.noise) for run in runs[4:]}


def test_the_main_grid_covers_what_the_study_promises():
    runs = list(GRIDS["main"].runs())
    assert len(runs) == len(set(runs)) == 5 * 3 * 5
    assert {run.noise for run in runs} == {"flip=0", "flip=0.2", "flip=0.4"}


def test_methods_differ_in_nothing_but_their_own_flags():
    """The same samples for all: only the algorithm and the critic may differ."""
    for name, method in METHODS.items():
        flags = TWO_METHODS.settings(Run(name, "flip=0.2", 0, "arithmetic"))["flags"]
        assert SHARED.items() <= flags.items()
        assert "max_steps" not in method.flags
        assert method.flags["prompts_per_step"] * method.flags["num_generations"] == 128


def test_the_ablation_adds_terms_in_the_papers_order():
    off = []
    for name in COMPARISONS["Ablation of the critic's loss"]:
        weights = METHODS[name].flags.get("critic_loss", {})
        CriticLossConfig.from_dict(weights)
        off.append({term for term in TERMS if weights.get(term) == 0})
    added = [before - after for before, after in zip(off, off[1:], strict=False)]
    assert off[-1] == set()
    assert off[0] == set().union(*added)
    assert added == [{"consistency"}, {"cvar", "gain"}, {"shift"}, {"shape", "curvature"}]


def test_every_method_is_reported_and_every_curve_has_a_style_of_its_own():
    assert set(METHODS) == {method for methods in COMPARISONS.values() for method in methods}
    assert len({STYLES[method] for method in CURVES}) == len(CURVES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("dvop",)}, "Unknown method 'dvop'; did you mean 'dvpo'"),
        ({"tasks": ("chess",)}, "Unknown task 'chess'; there are arithmetic, knowledge, dialogue"),
        ({"seeds": (0, 0)}, "needs seeds, each once"),
        ({"noises": ()}, "needs noises, each once"),
        ({"eval_steps": 0}, "eval_steps must be at least 1, got 0"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TWO_METHODS, **changes)


def test_flags_as_arguments():
    flags = {"a": 1, "b": ["x", "y"], "c": {"form": "paper"}, "d": True}
    assert as_arguments(flags) == ["--a", "1", "--b", "x", "y", "--c", '{"form": "paper"}', "--d", "true"]


def test_a_noise_may_be_several_specs():
    settings = TWO_METHODS.settings(Run("dvpo", "hackable=answer 7 + majority_vote", 0, "knowledge"))
    vote = "majority_vote=modeling_dvpo.training.tasks.knowledge:stated_answer"
    assert settings["flags"]["reward_noise"] == ["hackable=answer 7", vote]
    assert callable(TASKS["knowledge"].module.stated_answer)


# --- running ----------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_recorded_and_alone_made_again(workplace, tmp_path):
    results = tmp_path / "results.jsonl"
    noisy_supervision.run_grid(TWO_METHODS, results, workplace, jobs=2)
    records, first = read_results(results), results.read_text()
    assert set(records) == set(TWO_METHODS.runs())
    assert not list(workplace.directory.rglob("checkpoints"))
    failed = Run("ppo", "flip=0", 1, "arithmetic"), Run("ppo", "flip=0.4", 1, "arithmetic")
    for run, found in records.items():
        if run in failed:
            assert (found["status"], found["error"]) == ("failed", "exit status 1")
            assert found["log"].endswith("the loss is not finite")
        else:
            assert (found["status"], found["algorithm"], found["samples"]) == ("ok", run.method, 4 * 128)
            assert [line["step"] for line in found["learning_curve"]] == [0, 2, 4]
            assert found["final"] == pytest.approx(dict.fromkeys(TASK.domains, 0.6))
            assert found["training_end"].items() >= {"reward": 0.5, "reward/exact_reward": 0.4, "kl": 0.04}.items()
            assert found["seconds_per_step"] == 2.0

    assert set(still_to_run(TWO_METHODS, records)) == set(failed)
    workplace.trainer.write_text(FAKE_TRAINER.replace('["1"]', '["-1"]'))
    noisy_supervision.run_grid(TWO_METHODS, results, workplace, jobs=2)
    assert results.read_text().startswith(first)
    assert len(results.read_text().splitlines()) == 8 + 2
    assert {found["status"] for found in read_results(results).values()} == {"ok"}
    assert still_to_run(TWO_METHODS, read_results(results)) == []


def test_other_settings_for_a_run_of_the_same_name_are_refused(workplace, tmp_path):
    results = tmp_path / "results.jsonl"
    run = next(TWO_METHODS.runs())
    append_result(results, record(run, 0.5))
    longer = dataclasses.replace(TWO_METHODS, max_steps=5)
    with pytest.raises(ValueError, match=r"dvpo, seed 0\) with other settings: max_steps was 4, is now 5\. Give"):
        still_to_run(longer, read_results(results))
    otherwise = dataclasses.replace(TWO_METHODS, preparation={"carelessness": 0.9})
    with pytest.raises(ValueError, match=r"carelessness was 0\.\d, is now 0\.9"):
        still_to_run(otherwise, read_results(results))


def test_a_broken_line_of_the_results_is_named(tmp_path):
    results = tmp_path / "results.jsonl"
    append_result(results, record(run_of(), 0.5))
    with results.open("a") as file:
        file.write('{"method": "dv')
    with pytest.raises(ValueError, match="line 2 is not a run's record"):
        read_results(results)


def test_processes_run_together_up_to_the_limit():
    running, most = 0, 0

    def start(job):
        nonlocal running, most
        running += 1
        most = max(most, running)
        return subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({job})"])

    ended = {}
    for job, status, seconds in in_parallel(range(5), start, 2):
        running -= 1
        ended[job] = status
        assert seconds > 0
    assert ended == {job: job for job in range(5)}
    assert most == 2


def test_an_interrupt_ends_the_processes_that_run():
    started = []

    def start(job):
        started.append(subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({job})"]))
        return started[-1]

    began = time.perf_counter()
    ended = in_parallel([0, 60, 60], start, 2)
    next(ended)
    ended.close()
    assert all(process.poll() is not None for process in started)
    assert time.perf_counter() - began < 30


def test_metrics_that_lack_a_domain_are_an_error():
    run = run_of()
    lines = [{"step": step, **{f"eval/{d}/exact_reward": 0.5 for d in TASK.domains[:-1]}} for step in (0, 4)]
    with pytest.raises(ValueError, match=f"no accuracy of {TASK.domains[-1]} at step 0"):
        summary(lines, run, TWO_METHODS.settings(run))


def test_the_training_curve_is_thinned_by_means():
    run = run_of()
    settings = dataclasses.replace(TWO_METHODS, max_steps=50).settings(run)
    lines = [{"step": step, **{f"eval/{d}/exact_reward": 0.5 for d in TASK.domains}} for step in (0, 50)]
    same = ("step", "reward", "kl", "samples")
    lines += [dict.fromkeys(same, s) | {"reward/exact_reward": 2 * s, "seconds": 1} for s in range(1, 51)]
    found = summary(lines, run, settings)
    assert len(found["training_curve"]) == 20
    assert found["training_curve"][0] == {"step": 2, "reward": 1.5, "clean_reward": 3.0}
    assert found["training_curve"][-1] == {"step": 50, "reward": 49, "clean_reward": 98}
    assert found["training_end"]["kl"] == 48  # the last tenth: 46 to 50


@pytest.mark.parametrize("name", TASKS)
def test_a_policy_and_prompts_are_prepared_once(name, tmp_path):
    grid = dataclasses.replace(
        TWO_METHODS,
        preparation={
            "num_steps": 2, "batch_size": 2, "hidden_size": 16, "num_layers": 1, "train_prompts": 20, "eval_prompts": 5
        },
    )  # fmt: skip
    preparation = grid.preparation_of(name)
    directory = tmp_path / "seed-0"
    assert not is_prepared(directory, preparation)
    prepare(name, 0, directory, preparation)
    assert is_prepared(directory, preparation)
    rows = {path.stem: [json.loads(line) for line in path.open()] for path in directory.glob("*.jsonl")}
    prompts = {stem: [json.dumps(row["prompt"]) for row in found] for stem, found in rows.items()}
    domains = TASKS[name].domains
    assert {stem: len(rows) for stem, rows in prompts.items()} == {"train": 20, **dict.fromkeys(domains, 5)}
    assert not set(prompts["train"]) & {prompt for domain in domains for prompt in prompts[domain]}
    assert (directory / "policy" / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="was prepared with .* choose another --work_dir"):
        is_prepared(directory, TWO_METHODS.preparation_of(name))


def test_a_dialogue_run_goes_through_the_trainer(tmp_path):
    """Prepared files and flags as the study gives them, a policy that has learnt nothing, one step of few samples."""
    tiny = {"num_steps": 1, "batch_size": 2, "hidden_size": 16, "num_layers": 1, "train_prompts": 8, "eval_prompts": 3}
    grid = Grid(("reinforce_plus_plus",), ("flip=0.2",), (0,), ("dialogue",), 1, 1, preparation=tiny)
    (run,) = grid.runs()
    settings, workplace = grid.settings(run), Workplace(tmp_path)
    prepare(run.task, run.seed, workplace.data(run), settings["preparation"])
    train_dvpo.main(as_arguments(workplace.flags(run, settings) | {"prompts_per_step": 4, "num_generations": 2}))
    found = summary(read_metrics(workplace.output(run)), run, settings)
    assert [line.keys() for line in found["learning_curve"]] == [{"step", *TASKS["dialogue"].domains}] * 2
    assert found["samples"] == 8
    assert load_environment(settings["flags"]["environment"]) is TASKS["dialogue"].module.environment
    shown = [json.loads(line) for line in (workplace.output(run) / "completions.jsonl").open()]
    assert all(row["prompt"].startswith("user: ") and row["completion"].startswith("assistant: ") for row in shown)


# --- figures out of lines ---------------------------------------------------------------------------------------


def test_out_of_domain_and_average_weigh_domains_alike():
    accuracies = dict(zip(TASK.domains, (0.9, 0.3, 0.2, 0.1), strict=True))
    found = final_scores({"final": accuracies, "task": "arithmetic"})
    assert (found["ood"], found["average"]) == pytest.approx((0.2, 1.5 / 4))


def test_bootstrap_interval_of_two_values():
    """Resamples are (a, a), (a, b), (b, a), (b, b): a quarter of the means at either end."""
    interval = bootstrap_interval([0.2, 0.6])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.4, 0.2, 0.6))
    half = bootstrap_interval([0.2, 0.6], level=0.4)  # from the 30 % to the 70 % quantile: within the middle half
    assert (half.low, half.high) == pytest.approx((0.4, 0.4))


def test_bootstrap_interval_moves_and_scales_with_the_values():
    values = np.array([0.1, 0.4, 0.45, 0.5, 0.9])
    plain, moved = bootstrap_interval(values), bootstrap_interval(2 * values + 1)
    assert values.min() < plain.low < plain.mean < plain.high < values.max()
    assert dataclasses.astuple(moved) == pytest.approx(tuple(2 * end + 1 for end in dataclasses.astuple(plain)))
    assert bootstrap_interval(values) == plain


def test_bootstrap_interval_nears_the_normal_one_with_many_values():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_interval(values)
    assert (interval.high - interval.low) == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.05)


def test_one_value_has_no_interval_and_none_is_an_error():
    interval = bootstrap_interval([0.5])
    assert math.isnan(interval.low)
    assert str(interval) == "50.0"
    assert str(bootstrap_interval([0.5, 0.5])) == "50.0 [50.0, 50.0]"
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_the_paired_difference_is_over_common_seeds():
    ours = {run.seed: found for run, found in results_of("dvpo", [0.5, 0.6, 0.9]).items()}
    theirs = {run.seed: found for run, found in results_of("ppo", [0.4, 0.5]).items()}
    interval = paired_difference(ours, theirs, "average")
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_difference(ours, {}, "average") is None


def test_runs_of_a_seed_are_compared_where_they_started_alike():
    """The policy of seed 0 was made twice, and came out differently."""
    results = results_of("dvpo", [0.5, 0.9]) | results_of("ppo", [0.4], start=0.4)
    results[run_of("ppo", 1)] = record(run_of("ppo", 1), 0.7)
    ours, theirs = (finished(results, "arithmetic", "flip=0.4", method) for method in ("dvpo", "ppo"))
    assert (len(ours), len(theirs)) == (2, 2)
    assert paired_difference(ours, theirs, "average").mean == pytest.approx(0.2)
    assert "| *start (imitation)* | 3 |" in report(results)


@pytest.mark.parametrize(("final", "collapsed"), [(0.41, False), (0.39, True)])
def test_a_collapse_is_more_than_ten_points_below_the_start(final, collapsed):
    assert has_collapsed(record(run_of("ppo"), final, start=0.5)) == collapsed


def test_the_report_against_hand_worked_values():
    results = results_of("dvpo", [0.7, 0.9], ood=0.4) | results_of("ppo", [0.6, 0.2], ood=0.2)
    results |= results_of("grpo", [0.1], status="failed")
    text = report(results)
    assert text.startswith("4 finished runs, 1 failed.")
    assert "- failed: arithmetic, flip=0.4, grpo, seed 0" in text
    assert "### Methods: arithmetic, flip=0.4" in text
    assert "Ablation" not in text  # dvpo alone is no comparison
    domains = "single digits | two digits | digit products | many digits"
    assert f"| method | seeds | {domains} | out of domain | average | collapsed |" in text
    start = "50.0 [50.0, 50.0]"
    assert f"| *start (imitation)* | 2 | {start} | 50.0 | 50.0 | 50.0 | {start} | {start} |  |" in text
    dvpo = "80.0 [70.0, 90.0] | 40.0 | 40.0 | 40.0 | 40.0 [40.0, 40.0] | 50.0 [47.5, 52.5]"
    ppo = "40.0 [20.0, 60.0] | 20.0 | 20.0 | 20.0 | 20.0 [20.0, 20.0] | 25.0 [20.0, 30.0]"
    assert f"| DVPO | 2 | {dvpo} | 0 of 2 |" in text and f"| PPO | 2 | {ppo} | 1 of 2 |" in text
    # seed by seed: in domain 0.1 and 0.7, out of domain 0.2 twice, average (0.1 + 3 x 0.2) / 4 and (0.7 + 0.6) / 4
    assert "| DVPO − PPO | 2 | 40.0 [10.0, 70.0] | 20.0 [20.0, 20.0] | 25.0 [17.5, 32.5] |" in text
    assert "| PPO | 0.4 | 0.6 | 0.02 |" in text
    assert "GRPO |" not in text


def test_only_what_stands_between_the_markers_is_rewritten(tmp_path):
    path = tmp_path / "study.md"
    path.write_text(f"# Study\n\nby hand\n\n{BEGIN}\nold\n{END}\n\nby hand too\n")
    write_between_markers(path, "new")
    once = path.read_text()
    assert once == f"# Study\n\nby hand\n\n{BEGIN}\n\nnew\n\n{END}\n\nby hand too\n"
    write_between_markers(path, "new")
    assert path.read_text() == once


@pytest.mark.parametrize("text", ["# by hand\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n"])
def test_a_report_without_its_markers_is_left_alone(tmp_path, text):
    path = tmp_path / "study.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold the lines"):
        write_between_markers(path, "new")
    assert path.read_text() == text


def test_a_learning_curve_is_the_mean_over_runs_at_common_steps():
    records = list(results_of("dvpo", [0.7, 0.9]).values())
    records[0]["learning_curve"].insert(1, {"step": 2, **dict.fromkeys(TASK.domains, 0.1)})
    steps, curve = learning_curve(records, "ood")
    assert steps == [0, 4]
    np.testing.assert_allclose(curve, [[0.5, 0.5, 0.5], [0.8, 0.7, 0.9]])


def test_a_figure_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished run of task 'arithmetic'"):
        plot_learning_curves({}, "arithmetic", tmp_path / "figure.png")


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_line_changes_a_named_grid():
    options = noisy_supervision.parse(["--quick", "--methods", "ppo", "--seeds", "3", "4"])
    grid = noisy_supervision.chosen_grid(options)
    assert (grid.methods, grid.seeds, grid.max_steps) == (["ppo"], [3, 4], GRIDS["quick"].max_steps)
    assert options.results.parent.name == "noisy_supervision_quick"
    assert noisy_supervision.parse([]).results.parts[-3:] == ("docs", "studies", "noisy_supervision.jsonl")


def test_report_alone_writes_tables_and_figure(tmp_path):
    paths = {"results": tmp_path / "r.jsonl", "report_file": tmp_path / "r.md", "figure": tmp_path / "r.png"}
    arguments = ["--report", *(part for name, path in paths.items() for part in (f"--{name}", str(path)))]
    with pytest.raises(SystemExit, match="There are no results in"):
        noisy_supervision.main(arguments)
    for found in (results_of("dvpo", [0.7, 0.9]) | results_of("ppo", [0.6, 0.2])).values():
        append_result(paths["results"], found)
    noisy_supervision.main(arguments)
    assert "| DVPO − PPO | 2 |" in paths["report_file"].read_text()
    assert paths["figure"].read_bytes().startswith(b"\x89PNG")

"""Running the scripts of training/: their flags, their processes, and what they write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# what no two runs share
TIMING = ("seconds", "rollout_seconds", "tokens_per_second", "action_tokens_per_second")
# small only because numbers of about 1 cancel in it
CANCELLING = ("policy_loss", "critic/explained_variance", "critic/underestimation", "critic/bias")


def flags(*settings, **more):
    """Settings as flags, later ones instead of earlier ones; None leaves one out."""
    merged = {name: value for part in (*settings, more) for name, value in part.items()}
    found = []
    for name, value in merged.items():
        if isinstance(value, list):
            found += [f"--{name}", *map(str, value)]
        elif value is not None:
            found.append(f"--{name}={value}")
    return found


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def metrics_of(output_dir):
    """A run's metrics by step."""
    metrics = {}
    for row in read_rows(Path(output_dir) / "metrics.jsonl"):
        metrics.setdefault(row.pop("step"), {}).update({n: v for n, v in row.items() if n not in TIMING})
    return metrics


def command(program, ranks):
    """What starts a script on this many ranks; one rank is a plain process."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*(launch if ranks > 1 else [sys.executable]), str(program)]


def start(program, arguments, ranks):
    """Run a script to its end in processes of its own, whatever comes of it."""
    return subprocess.run([*command(program, ranks), *arguments], capture_output=True, text=True, timeout=300)


def run_on_ranks(program, arguments, ranks=2):
    done = start(program, arguments, ranks)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"{ranks} process(es)" in done.stdout + done.stderr


def kill_after_first_checkpoint(program, arguments, ranks, output_dir):
    """SIGKILL as soon as the first checkpoint is whole; nothing gets to tidy up."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command(program, ranks), *arguments], start_new_session=True, **quiet)
    try:
        while not (output_dir / "checkpoints" / "step-1").exists():
            assert process.poll() is None, "ended before its first checkpoint"
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert not (output_dir / "last").exists()


class Stop(Exception):
    """Stands in for a lost machine."""


def stop_in(monkeypatch, trainer, method, step):
    """The trainer is lost in this step, at the start of its method of this name."""
    original = getattr(trainer, method)

    def stopping(self, this_step, *rest):
        if this_step == step:
            raise Stop
        return original(self, this_step, *rest)

    monkeypatch.setattr(trainer, method, stopping)


def assert_same_curve(found, expected):
    """All metrics of all steps agree, in the worst case and, which shows drift, in the mean.

    Relative to the expected value, or to 1e-3 where that is smaller; to 0.1 for what is CANCELLING.
    """
    assert found.keys() == expected.keys() and len(found) > 2
    gaps = {}
    for step in expected:
        assert found[step].keys() == expected[step].keys()
        for name, value in expected[step].items():
            if value is None:
                assert found[step][name] is None
            else:
                unit = max(abs(value), 0.1 if name in CANCELLING else 1e-3)
                gaps[step, name] = abs(found[step][name] - value) / unit
    largest, mean = max(gaps.values()), sum(gaps.values()) / len(gaps)
    print(f"relative difference: largest {largest:.1e} at {max(gaps, key=gaps.get)}, mean {mean:.1e}")  # pytest -rP
    assert largest < 1e-5 and mean < 1e-6


def assert_same_tree(found, expected, *, rel, abs):
    """Equal to rounding, at any depth of dicts and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same_tree(found[name], expected[name], rel=rel, abs=abs)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_tree(one, other, rel=rel, abs=abs)
    else:
        assert found == (pytest.approx(expected, rel=rel, abs=abs) if isinstance(expected, float) else expected)

"""`dvpo push` and `dvpo pull`, as they are typed, against a Hub."""

import os
import re
import subprocess
import sys

import pytest
from hub_changes import CRITIC, POLICY, replace_weights
from tiny_pairs import save_critic, save_policy

from modeling_dvpo import cli

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


def dvpo(*arguments):
    cli.main([str(argument) for argument in arguments])


@pytest.fixture
def critic(tmp_path, tiny_tokenizer):
    return save_critic(tmp_path / "run" / "best", tiny_tokenizer)


class TestPush:
    def test_a_critic(self, hub, critic, capsys):
        dvpo("push", critic, CRITIC, "--no-card", "--private", "--message", "First try", "--tag", "v1")
        out = capsys.readouterr().out
        assert re.search(rf"critic: {hub.endpoint}/user/critic \(commit [0-9a-f]{{8}} on main\)", out)
        assert hub.commits(CRITIC, "v1")[0].title == "First try" and hub.repository(CRITIC).private
        dvpo("push", critic, CRITIC, "--no-card")
        assert "nothing to do, it is there already" in capsys.readouterr().out

    def test_what_stays_here_is_said(self, hub, critic, capsys):
        (critic / "optimizer.pt").touch()
        dvpo("push", critic, CRITIC, "--no-card")
        assert "not part of the critic, left here: optimizer.pt" in capsys.readouterr().out

    def test_a_critic_of_a_policy(self, hub, last, critic):
        dvpo("push", critic, "user/other", "--policy", POLICY, "--create-pr", "--no-card")
        assert b'"user/policy"' in hub.files("user/other", "refs/pr/1")["dvpo_pair.json"]

    def test_a_pair(self, hub, last, capsys):
        dvpo("push", last, "user/p", "user/c", "--revision", "trial", "--no-card")
        assert "config.json" in hub.files("user/p", "trial") and "config.json" in hub.files("user/c", "trial")
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_scores_from_a_file(self, hub, last, critic, tmp_path):
        scores = tmp_path / "scores.yaml"
        scores.write_text("- dataset: {id: openai/gsm8k, task_id: gsm8k}\n  value: 61.5\n")
        dvpo("push", last, "user/policy", "user/critic", "--benchmarks", scores)
        assert ".eval_results/openai--gsm8k.yaml" in hub.files("user/policy")
        with pytest.raises(SystemExit, match="--benchmarks are a policy's"):
            dvpo("push", critic, "user/other", "--benchmarks", scores)

    def test_a_pair_from_two_directories(self, hub, critic, tmp_path, tiny_tokenizer):
        policy = save_policy(tmp_path / "policy", tiny_tokenizer)
        dvpo("push", policy, POLICY, CRITIC, "--critic", critic, "--no-card")
        assert "config.json" in hub.files(POLICY)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["run", CRITIC], "is a run with best/: say which to push, as in .*run/best"),
            (["run/best", CRITIC, "--critic", "x"], "--critic needs two repositories"),
            (["run/best", POLICY, CRITIC, "--policy", POLICY], "--policy is for pushing a critic alone"),
            (["nowhere", CRITIC], "UnpublishableError: nowhere is no directory"),
        ],
    )
    def test_mistakes_are_one_line(self, hub, critic, tmp_path, monkeypatch, arguments, match):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match=match) as caught:
            dvpo("push", *arguments)
        assert "\n" not in str(caught.value) and hub.repositories == {}


class TestPull:
    def test_a_pair(self, hub, last, tmp_path, capsys):
        dvpo("pull", CRITIC, "--local-dir", tmp_path / "pair")
        out = capsys.readouterr().out
        assert f"policy: {tmp_path / 'pair' / 'policy'} (user/policy, " in out and "They belong together" in out

    def test_a_mismatch_is_one_line_that_says_what_to_type(self, hub, last, tmp_path):
        replace_weights(hub, POLICY, tmp_path)
        with pytest.raises(SystemExit, match="PolicyMovedOnError: .*--allow policy") as caught:
            dvpo("pull", CRITIC)
        assert "\n" not in str(caught.value)

    def test_allow(self, hub, last, tmp_path, capsys):
        replace_weights(hub, POLICY, tmp_path)
        with pytest.warns(UserWarning, match="is not the policy that the critic judges"):
            dvpo("pull", CRITIC, "--allow", "policy", "--allow", "tokenizer")
        assert "They belong together" not in capsys.readouterr().out


@pytest.mark.slow
def test_in_a_process_of_its_own(hub, last, tmp_path):
    """`HF_ENDPOINT` and `HF_TOKEN` from the environment, for everything that is asked of the Hub."""
    for repo in (POLICY, CRITIC):
        hub.repository(repo).private = True
    environment = {**hub.environment(tmp_path / "home", hub.token), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = {"capture_output": True, "text": True, "env": environment}
    pulled = subprocess.run([sys.executable, "-m", "modeling_dvpo.cli", "pull", CRITIC], **run)
    assert pulled.returncode == 0 and "They belong together" in pulled.stdout, pulled.stderr
    command = [sys.executable, "-m", "modeling_dvpo.cli", "push", last, "user/p", "user/c", "--no-card"]
    pushed = subprocess.run(command, **run)
    assert pushed.returncode == 0 and f"{hub.endpoint}/user/p (commit" in pushed.stdout, pushed.stderr

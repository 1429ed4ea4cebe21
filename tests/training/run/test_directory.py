import json

import pytest

from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.run.directory import check_run_directory, claim_run_directory

SETTINGS = {"seed": 1, "learning_rate": 1e-5, "save_steps": 3, "critic_loss": {"risk": 0.1}, "report_to": []}


def check(folder, settings=SETTINGS, *, resume=False, overwrite=False):
    check_run_directory(folder, settings, resume=resume, overwrite=overwrite)


def claim(folder, settings=SETTINGS, *, resume=False, overwrite=False):
    claim_run_directory(folder, settings, resume=resume, overwrite=overwrite)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    claim(folder)
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def test_checking_leaves_no_trace(tmp_path):
    check(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_empty_directory_is_free(tmp_path):
    check(tmp_path)
    claim(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == SETTINGS


def test_another_run_is_refused(run):
    with pytest.raises(ConfigError, match="holds another run. Choose another output_dir, --resume .* --overwrite"):
        check(run)


def test_two_runs_started_side_by_side(tmp_path):
    check(tmp_path)
    check(tmp_path)
    claim(tmp_path)
    with pytest.raises(FileExistsError):
        claim(tmp_path, {"seed": 2})
    assert json.loads((tmp_path / "run.json").read_text()) == SETTINGS


def test_resume_needs_the_same_settings(run):
    check(run, resume=True)
    changed = {**SETTINGS, "seed": 2, "critic_loss": {"risk": 0}}
    message = r"seed \(was 1, is 2\); critic_loss \(was \{'risk': 0.1\}, is \{'risk': 0\}\). Change them back"
    with pytest.raises(ConfigError, match=message):
        check(run, changed, resume=True)


def test_resume_with_settings_that_leave_the_curve_alone(run):
    changed = {**SETTINGS, "save_steps": 5, "report_to": ["tensorboard"]}
    check(run, changed, resume=True)
    claim(run, changed, resume=True)
    assert json.loads((run / "run.json").read_text()) == SETTINGS
    assert (run / "metrics.jsonl").exists()


def test_resume_where_nothing_is_starts_anew(tmp_path):
    check(tmp_path / "new", resume=True)
    claim(tmp_path / "new", resume=True)
    assert (tmp_path / "new" / "run.json").exists()


def test_overwrite_deletes_the_old_run_when_the_new_one_is_under_way(run):
    check(run, overwrite=True)
    assert (run / "metrics.jsonl").exists()
    claim(run, {"seed": 2}, overwrite=True)
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert json.loads((run / "run.json").read_text()) == {"seed": 2}


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_files_that_are_no_run_are_neither_joined_nor_deleted(tmp_path, how):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="holds files but no run.json, so it is no run's"):
        check(tmp_path, **how)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir .*file is a file"):
        check(tmp_path / "file")


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="resume and overwrite_output_dir exclude each other"):
        check(tmp_path, resume=True, overwrite=True)

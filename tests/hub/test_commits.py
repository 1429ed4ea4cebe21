"""One commit per push: nothing when nothing changed, nothing lost when the Hub or the network fails."""

import pytest
from hub_server.faults import Before, CutUpload, Delay, DropAnswer, Refuse, too_many_requests

from modeling_dvpo.hub import client
from modeling_dvpo.hub.client import hub_api
from modeling_dvpo.hub.commits import commit_files, open_repository, tag_commit
from modeling_dvpo.hub.errors import (
    AccessError,
    ConcurrentCommitError,
    HubError,
    PushFailedError,
    UnpublishableError,
    UnreachableError,
)
from modeling_dvpo.hub.remote import read_remote, remote_state

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"
OLD = {"model.safetensors": b"\0old" * 500, "config.json": b'{"a": 1}'}
NEW = {"model-1.safetensors": b"\0new" * 500, "model-2.safetensors": b"\0two" * 400, "config.json": b'{"a": 2}'}


@pytest.fixture
def naps(monkeypatch, waits):
    """Seconds that would have been slept between attempts, here; `waits` has those of the client."""
    naps = []
    monkeypatch.setattr(client.time, "sleep", naps.append)
    return naps


@pytest.fixture
def repository(hub, naps):
    """Holds `OLD` and a file of somebody's own."""
    hub.add_commit(REPO, {**OLD, "notes.txt": b"mine"})
    return hub


def is_stale(path):
    return path.startswith("model")


def push(files=NEW, **options):
    api = hub_api()
    return commit_files(api, open_repository(api, REPO), files, is_stale=is_stale, message="push", **options)


def held(hub, revision="main"):
    return {path: content for path, content in hub.files(REPO, revision).items() if path != ".gitattributes"}


def assert_new(hub, revision="main"):
    assert held(hub, revision) == {**NEW, "notes.txt": b"mine"}


def assert_old(hub):
    assert held(hub) == {**OLD, "notes.txt": b"mine"}


class TestOneCommit:
    def test_adds_deletes_what_is_stale_and_leaves_the_rest(self, repository):
        before = len(repository.commits(REPO))
        pushed = push()
        assert_new(repository)
        assert len(repository.commits(REPO)) == before + 1
        assert (pushed.changed, pushed.commit) == (True, repository.commits(REPO)[0].sha)

    def test_nothing_changes_when_nothing_changed(self, repository):
        first = push()
        posts = repository.count("POST", "commit|preupload")
        again = push()
        assert (again.changed, again.commit) == (False, first.commit)
        assert repository.count("POST", "commit|preupload") == posts

    def test_only_what_changed_is_sent(self, repository):
        push()
        uploads = repository.count("PUT", "/storage/")
        push({**NEW, "model-1.safetensors": b"\0newer" * 500})
        assert repository.count("PUT", "/storage/") == uploads + 1

    def test_only_a_deletion(self, repository):
        files = {"config.json": OLD["config.json"]}
        assert push(files).changed
        assert held(repository) == {**files, "notes.txt": b"mine"}

    def test_content_may_be_a_file(self, repository, tmp_path):
        path = tmp_path / "weights"
        path.write_bytes(b"\0file")
        push({"model.safetensors": path})
        assert held(repository)["model.safetensors"] == b"\0file"
        assert not push({"model.safetensors": path}).changed
        path.write_bytes(b"\0FILE")  # the same size
        assert push({"model.safetensors": path}).changed


class TestRepository:
    def test_is_made(self, hub, naps):
        api = hub_api()
        state = open_repository(api, "user/fresh", private=True)
        assert hub.repository("user/fresh").private and state.private and list(state.files) == [".gitattributes"]

    def test_of_other_visibility_is_refused(self, repository):
        with pytest.raises(UnpublishableError, match="user/model is public, and private=True asks for a private"):
            open_repository(hub_api(), REPO, private=True)

    def test_a_branch_is_made_from_main(self, repository):
        api = hub_api()
        state = open_repository(api, REPO, revision="trial/1")
        commit_files(api, state, NEW, is_stale=is_stale, message="push")
        assert_new(repository, "trial/1")
        assert_old(repository)

    def test_a_small_file_is_read(self, repository):
        api = hub_api()
        state = remote_state(api, REPO)
        assert read_remote(api, state, "config.json") == OLD["config.json"]
        assert read_remote(api, state, "missing.json") is None


class TestTags:
    def test_names_the_commit(self, repository):
        api, pushed = hub_api(), push()
        tag_commit(api, pushed, "v1")
        tag_commit(api, pushed, "v1")
        assert_new(repository, "v1")

    def test_is_never_moved(self, repository):
        api = hub_api()
        tag_commit(api, push(), "v1")
        with pytest.raises(PushFailedError, match="the tag v1 names .{8} already and was left there"):
            tag_commit(api, push(OLD), "v1")
        assert_new(repository, "v1")


class TestPullRequests:
    def test_leaves_main_alone(self, repository):
        pushed = push(create_pr=True)
        assert pushed.revision == "refs/pr/1" and pushed.url.endswith("/user/model/discussions/1")
        assert_new(repository, "refs/pr/1")
        assert_old(repository)

    def test_the_same_one_is_not_opened_twice(self, repository):
        first = push(create_pr=True)
        again = push(create_pr=True)
        assert (again.revision, again.commit, again.changed) == (first.revision, first.commit, False)
        assert len(repository.repository(REPO).discussions) == 1

    def test_one_whose_answer_was_lost_is_found(self, repository):
        rule = repository.faults.add("POST", "/commit/", DropAnswer())
        pushed = push(create_pr=True)
        assert rule.hits == 1 and pushed.revision == "refs/pr/1" and pushed.changed
        assert len(repository.repository(REPO).discussions) == 1


class TestTroubleThatPasses:
    @pytest.mark.parametrize("trouble", [Refuse(503), Refuse(500), too_many_requests(), Delay(0.3), DropAnswer()])
    @pytest.mark.parametrize(
        ("method", "where"),
        [("GET", "/api/models/user/model"), ("POST", "/preupload/"), ("POST", "/objects/batch"), ("POST", "/commit/")],
    )
    def test_is_waited_out(self, repository, method, where, trouble):
        before = len(repository.commits(REPO))
        rule = repository.faults.add(method, where, trouble)
        assert push().changed
        assert rule.hits == 1
        assert_new(repository)
        assert len(repository.commits(REPO)) == before + 1

    def test_an_upload_that_is_cut(self, repository):
        rule = repository.faults.add("PUT", "/storage/", CutUpload(100))
        push()
        assert rule.hits == 1
        assert_new(repository)

    def test_the_hub_says_how_long_to_wait(self, repository, naps):
        repository.faults.add("POST", "/commit/", too_many_requests(17))
        push()
        assert naps == [17.0]

    def test_a_new_repository(self, hub, naps):
        hub.faults.add("POST", "/api/repos/create", DropAnswer())
        assert push().changed

    def test_a_lost_answer_makes_no_second_commit(self, repository):
        rule = repository.faults.add("POST", "/commit/", DropAnswer(), times=None)
        pushed = push()
        assert rule.hits == 1 and pushed.commit == repository.commits(REPO)[0].sha


class TestTroubleThatStays:
    def test_an_upload_that_is_always_cut(self, repository):
        repository.faults.add("PUT", "/storage/", CutUpload(100), times=None)
        with pytest.raises(PushFailedError, match="Nothing changed in user/model.*Run the same push again"):
            push()
        assert_old(repository)
        repository.faults.clear()
        assert push().changed
        assert_new(repository)

    def test_half_of_the_files_arrive(self, repository):
        repository.faults.add("PUT", "/storage/", Refuse(503), times=None, after=1)
        with pytest.raises(PushFailedError):
            push()
        assert_old(repository)
        repository.faults.clear()
        stored = repository.count("PUT", "/storage/")
        push()
        assert repository.count("PUT", "/storage/") == stored + 1  # what had arrived is not sent twice
        assert_new(repository)

    def test_a_commit_that_is_never_taken(self, repository, naps):
        repository.faults.add("POST", "/commit/", Refuse(500), times=None)
        with pytest.raises(PushFailedError, match="did not take the commit to user/model.*main is as it was, at"):
            push()
        assert naps == [1.0, 2.0, 4.0, 8.0]
        assert_old(repository)

    def test_a_hub_that_is_down(self, repository):
        repository.faults.add("GET", ".*", Refuse(502), times=None)
        with pytest.raises(UnreachableError, match="the Hub answered 502 every time"):
            push()

    def test_unknown_whether_the_commit_happened(self, repository):
        repository.faults.add("POST", "/commit/", DropAnswer(), times=None)
        repository.faults.add("GET", "/api/models", Refuse(503), times=None, after=1)
        with pytest.raises(UnreachableError, match="learn whether the commit to user/model happened; run the push"):
            push()
        repository.faults.clear()
        assert not push().changed
        assert_new(repository)


class TestSomebodyElse:
    def test_is_never_overwritten(self, repository):
        theirs = {"config.json": b'{"theirs": 1}'}
        repository.faults.add("POST", "/commit/", Before(lambda: repository.add_commit(REPO, theirs)))
        with pytest.raises(ConcurrentCommitError, match="Somebody else committed .{8} to user/model .main. while"):
            push()
        assert held(repository) == {**OLD, **theirs, "notes.txt": b"mine"}
        push()
        assert_new(repository)

    def test_may_push_the_same(self, repository):
        def theirs():
            repository.add_commit(REPO, {**NEW, "model.safetensors": None})

        repository.faults.add("POST", "/commit/", Before(theirs))
        push()
        assert_new(repository)


class TestAccess:
    def test_a_read_only_token(self, repository):
        api = hub_api(repository.read_token)
        with pytest.raises(AccessError, match="your token may not write to user/model"):
            commit_files(api, open_repository(api, REPO), NEW, is_stale=is_stale, message="push")
        assert_old(repository)

    @pytest.mark.parametrize(
        ("token", "repo", "match"),
        [
            ("hf_wrong", REPO, "does not know your token"),
            (False, "user/new", "log in with `hf auth login`, set HF_TOKEN, or give token="),
            (False, REPO, "log in with"),
        ],
    )
    def test_no_valid_token(self, repository, token, repo, match):
        api = hub_api(token)
        with pytest.raises(AccessError, match=match):
            commit_files(api, open_repository(api, repo), NEW, is_stale=is_stale, message="push")

    def test_a_private_repository_of_others(self, repository):
        repository.repository(REPO).private = True
        stranger = repository.add_token("stranger")
        with pytest.raises(AccessError):
            open_repository(hub_api(stranger), REPO)

    def test_somebody_elses_repository_takes_a_pull_request(self, repository):
        api = hub_api(repository.add_token("stranger"))
        state = open_repository(api, REPO)
        with pytest.raises(AccessError, match="propose the change with create_pr=True"):
            commit_files(api, state, NEW, is_stale=is_stale, message="push")
        pushed = commit_files(api, state, NEW, is_stale=is_stale, message="push", create_pr=True)
        assert_new(repository, pushed.revision)


class TestRefusals:
    def test_a_gitignore_that_hides_weights(self, repository):
        repository.add_commit(REPO, {".gitignore": b"*.safetensors\n"})
        with pytest.raises(UnpublishableError, match="gitignore of user/model keeps model-1.safetensors, model-2"):
            push()
        assert held(repository)["config.json"] == OLD["config.json"]

    def test_a_tag_cannot_be_pushed_to(self, repository):
        api = hub_api()
        tag_commit(api, push(), "v1")
        state = open_repository(api, REPO, revision="v1")
        with pytest.raises(HubError, match="Cannot commit to v1"):
            commit_files(api, state, OLD, is_stale=is_stale, message="push")

"""Publishing against a strict Hub: one commit and a tag, whatever fails on the way."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from standin import ROOT, TOKEN, Fault, StandIn, environment

from curation import hub as hubs
from curation.hubclient import Hub, HubError
from curation.publication import prepare
from curation.versions import Version
from schemas.errors import DamagedError, WinnowError

REPO = "org/shown"


def contents(standin: StandIn, rev: str = "main", repo: str = REPO) -> dict[str, str]:
    """path -> sha256, of what a reader sees"""
    _, files = standin.repos[repo].at(rev)
    return {
        path: file.sha256 or hashlib.sha256(file.data).hexdigest()
        for path, file in files.items()
        if path != ".gitattributes"
    }


def whole(version: Version, **options: object) -> dict[str, str]:
    return {item.path: item.sha256 for item in prepare(version, **options).items}  # type: ignore[arg-type]


def test_one_commit_and_a_tag(built, standin, hub):
    done = hubs.publish(built.first, REPO, tag="v1", hub=hub)
    assert contents(standin) == contents(standin, "v1") == whole(built.first)
    assert len(standin.repos[REPO].commits) == 2, "the first is the empty repo's"
    assert standin.repos[REPO].tags == {"v1": done.commit}
    assert not standin.token_seen_at & {"put", "part", "complete"}
    received = standin.received
    again = hubs.publish(built.first, REPO, tag="v1", hub=hub)
    assert (again.commit, again.sent_bytes, standin.received) == (done.commit, 0, received)
    named = hubs.publish(built.first, REPO, hub=hub)
    assert (named.tag, named.commit) == (built.first.id, done.commit), "a further tag needs no further commit"


def test_a_source_that_changed_is_what_travels(built, standin, hub, capsys):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    before = standin.received
    done = hubs.publish(built.second, REPO, tag="v2", hub=hub)
    wire = standin.received - before
    with capsys.disabled():
        print(f"\n5 % of rows, one source: {wire:,} of {done.bytes:,} bytes travelled ({wire / done.bytes:.1%})")
    assert wire < 0.15 * done.bytes
    assert contents(standin, "v1") == whole(built.first)
    assert contents(standin, "v2") == contents(standin) == whole(built.second)
    with pytest.raises(WinnowError, match="names another version already"):
        hubs.publish(built.second, REPO, tag="v1", hub=hub)


ONCE = ("info", "create", "refs", "tree", "validate", "preupload", "batch", "put", "verify", "commit", "tag")


@pytest.mark.parametrize("kind", [503, 429, 412, 504, "cut", "lost"])
def test_every_route_fails_once(built, standin, hub, kind):
    standin.faults = [Fault(route, kind) for route in ONCE]
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    assert [fault.route for fault in standin.faults if fault.times] == []
    assert contents(standin, "v1") == contents(standin) == whole(built.first)
    assert len(standin.repos[REPO].commits) == 2, "a commit whose reply is lost is not made again"
    assert len(hub.waits) >= len(ONCE) - 1
    if kind == 429:
        assert all(wait >= 0.75 for wait in hub.waits)


def test_no_reply_in_time(built, standin):
    hub = Hub(standin.url, TOKEN, timeout=0.2, sleep=lambda seconds: None)
    standin.faults = [Fault(route, "hang") for route in ONCE]
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    assert contents(standin, "v1") == whole(built.first)


def test_what_never_passes_ends_with_the_old_version(built, standin, hub):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    for route, kind in (("tree", 429), ("batch", "cut"), ("put", 503), ("commit", 503)):
        standin.faults = [Fault(route, kind, times=100)]
        with pytest.raises(HubError) as said:
            hubs.publish(built.second, REPO, tag="v2", hub=hub)
        assert TOKEN not in str(said.value)
        assert contents(standin) == whole(built.first)
        assert "v2" not in standin.repos[REPO].tags
    standin.faults = []
    sent = len([1 for route, _ in standin.log if route == "put"])
    hubs.publish(built.second, REPO, tag="v2", hub=hub)
    assert contents(standin, "v2") == whole(built.second)
    assert len([1 for route, _ in standin.log if route == "put"]) == sent, "the blobs were there from the first try"


def test_somebody_else_commits_meanwhile(built, standin, hub):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    repo = standin.repos[REPO]

    def other(route: str, number: int) -> None:
        if route == "put" and len(repo.commits) == 2:
            files = dict(repo.commits[-1][2])
            files["NOTES.md"] = files[".gitattributes"]
            repo.commits.append(("f" * 40, "by hand", files))

    standin.on_request = other
    hubs.publish(built.second, REPO, tag="v2", hub=hub)
    assert ("commit", f"/api/datasets/{REPO}/commit/main") in standin.log
    seen = contents(standin, "v2")
    assert seen.pop("NOTES.md"), "what others put there stays"
    assert seen == whole(built.second)


def test_large_files_go_in_parts(built, tmp_path):
    standin = StandIn(tmp_path / "hub", part_size=100_000)
    standin.faults = [Fault("part", 503, after=1), Fault("complete", 503)]
    hubs.publish(built.first, REPO, tag="v1", hub=Hub(standin.url, TOKEN, sleep=lambda seconds: None))
    assert any(route == "complete" for route, _ in standin.log)
    assert contents(standin, "v1") == whole(built.first)
    standin.close()


def test_damage_here_is_found_while_sending(built, standin, hub, tmp_path):
    folder = tmp_path / built.first.id
    shutil.copytree(built.first.path, folder)
    file = next((folder / "data" / "rows").glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="other bytes than were written"):
        hubs.publish(Version.open(folder), REPO, hub=hub)
    assert contents(standin) == {}


def test_foreign_and_public_repos_are_left_alone(built, standin, hub):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    with pytest.raises(WinnowError, match="is public already"):
        hubs.publish(built.first, REPO, private=True, hub=hub)
    files = standin.repos[REPO].commits[-1][2]
    del files["manifest.json"]
    with pytest.raises(WinnowError, match="did not publish"):
        hubs.publish(built.first, REPO, tag="v3", hub=hub)
    hubs.publish(built.first, "org/hidden", private=True, hub=hub)
    assert standin.repos["org/hidden"].private
    with pytest.raises(HubError, match=r"hf auth login"):
        hubs.publish(built.first, "org/other", hub=Hub(standin.url, "hf_wrong"))


def test_a_dry_run_changes_nothing(built, standin, hub):
    seen = hubs.publish(built.first, REPO, dry_run=True, hub=hub)
    assert seen.commit == "" and seen.files == len(seen.new) and not standin.repos
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    commits = len(standin.repos[REPO].commits)
    seen = hubs.publish(built.second, REPO, dry_run=True, hub=hub)
    assert 0 < seen.new_bytes < 0.15 * seen.bytes
    assert len(standin.repos[REPO].commits) == commits and set(standin.repos[REPO].tags) == {"v1"}


def test_without_traces(built, standin, hub):
    hubs.publish(built.first, REPO, tag="all", hub=hub)
    done = hubs.publish(built.first, REPO, tag="v1", traces=False, hub=hub)
    assert {path.split("/")[0] for path in done.removed} == {"traces", "verdicts"}
    seen = contents(standin)
    assert not [path for path in seen if path.startswith(("traces/", "verdicts/"))]
    manifest = json.loads(standin.repos[REPO].commits[-1][2]["manifest.json"].data or standin.blob(seen["manifest.json"]).read_bytes())  # fmt: skip
    assert set(manifest["published"]["withheld"]) == {"traces", "verdicts"}
    assert "host" not in manifest["run"]


@pytest.mark.timeout(300)
def test_thirty_kills_and_a_whole_version(built, standin, hub, tmp_path):
    """Killed when the Hub has had its n-th request, n by chance, and run again: readers see the first version or the
    second, and at the end the second."""
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    states = {json.dumps(whole(version), sort_keys=True) for version in (built.first, built.second)}
    program = (
        "import sys; from curation import hub; from curation.versions import Version; from pathlib import Path\n"
        f"hub.publish(Version.open(Path(sys.argv[1])), {REPO!r}, tag=sys.argv[2])"
    )
    command = [sys.executable, "-c", FORKED, program, str(built.second.path)]
    publisher = subprocess.Popen(
        command, env=environment(standin, tmp_path / "cache"), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert publisher.stdin is not None and publisher.stdout is not None
    chance = random.Random(5)
    kills = runs = 0
    repo = standin.repos[REPO]
    while kills < 30:
        runs += 1
        start = len(standin.log)
        last = start + chance.randint(1, 40)
        killed = []
        publisher.stdin.write(f"v2-{kills // 5}\n")
        publisher.stdin.flush()
        child = int(publisher.stdout.readline())

        def kill(route: str, number: int, child: int = child, last: int = last, killed: list = killed) -> None:
            if number >= last and not killed:
                killed.append(route)
                import os

                os.kill(child, signal.SIGKILL)

        standin.on_request = kill
        ended = publisher.stdout.readline().strip()
        standin.on_request = lambda route, number: None
        assert ended == "0" or killed, "it fails only where it was killed"
        kills += len(killed)
        assert json.dumps(contents(standin), sort_keys=True) in states
        if ended == "0":  # start anew from the first version, without the blobs of the second
            assert contents(standin) == whole(built.second)
            while len(repo.commits) > 2:
                repo.commits.pop()
            repo.tags = {"v1": repo.head}
            repo.blobs = {file.sha256 for file in repo.commits[-1][2].values() if file.sha256}
    publisher.stdin.close()
    publisher.wait(10)
    hubs.publish(built.second, REPO, tag="v2", hub=hub)
    assert contents(standin, "v2") == whole(built.second)


FORKED = """
import os, sys
import curation.hub, curation.publishcheck, datasets
program = sys.argv[1]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["", sys.argv[2], line.strip()]
        try:
            exec(program)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_the_token_stays_here(built, standin, hub, run, tmp_path):
    standin.faults = [Fault("put", 503, times=1), Fault("commit", 401)]
    words = ("-m", "curation.cli", "publish", str(built.first.path), REPO)
    done = run(*words, check=False)
    assert done.returncode == 1 and "hf auth login" in done.stderr and "Traceback" not in done.stderr
    for path in Path(tmp_path / "hub").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()

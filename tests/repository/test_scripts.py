"""The scripts that developers run: they see what is missing, and tell what was skipped."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import bare, mutants, test
from tests import needs

pytestmark = pytest.mark.slow

SERVER = 'run:\n\t@cd eclipse && python3 -m http.server --bind 127.0.0.1 "$$PORT"\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="eclipse-scripts-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def stranger(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makefile: str) -> None:
    """What a stranger does with a repository that has this Makefile."""
    try:
        bare.find_python()
    except bare.MissingError as error:
        needs.missing("Python for every user", str(error))
    git = needs.program("git", "Debian: apt-get install git")
    (tmp_path / "Makefile").write_text(makefile)
    (tmp_path / "eclipse").mkdir()
    (tmp_path / "eclipse" / "demo").write_text("<eclipse-chat>")
    author = ["-c", "user.name=A. Author", "-c", "user.email=author@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "Begin"]):
        subprocess.run([git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(bare, "ROOT", tmp_path)
    bare.play(folder, short=False)


def test_a_stranger_who_needs_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo is waited for, then the tests run, with an empty home, as somebody who isn't root."""
    monkeypatch.setenv("CI", "true")
    home = 'test "$$(ls -A $$HOME)" = "" && test "$$(id -u)" != 0 && test -z "$$CI"'
    stranger(folder, tmp_path, monkeypatch, f"{SERVER}test:\n\t@{home} && echo random order, all passed\n")
    said = capsys.readouterr().out
    assert "the demo answered" in said
    assert "all passed" in said


@pytest.mark.parametrize(
    ("makefile", "says"),
    [
        ("run:\n\t@node --version\n", "node"),
        (f"{SERVER}test:\n\t@gcc --version\n", "gcc"),
    ],
)
def test_a_stranger_who_needs_something_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makefile: str, says: str
) -> None:
    """A program from outside of the clone is missing, whatever this machine has, and its name is told."""
    with pytest.raises(bare.MissingError, match=f"{says}.*not found|{says}: No such file"):
        stranger(folder, tmp_path, monkeypatch, makefile)


def test_what_was_skipped_is_told_once_for_all_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reasons are grouped over the lanes, and counted."""
    monkeypatch.setattr(test, "LOGS", tmp_path)
    some = tmp_path / "test_some.py"
    some.write_text(
        "import pytest\n"
        "def test_one(): pytest.skip('needs a thing (get it)')\n"
        "def test_other(): pytest.skip('needs a thing (get it)')\n"
    )
    lanes = [
        test.Lane(name, [str(some), "-c", "/dev/null", "-p", "no:tornado"], cover=False) for name in "ab"
    ]
    assert test.wait(lanes)
    test.tell_skipped(lanes)
    assert "    4 x needs a thing (get it)" in capsys.readouterr().out


def test_a_lane_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's end is shown, and the whole fails."""
    monkeypatch.setattr(test, "LOGS", tmp_path)
    some = tmp_path / "test_some.py"
    some.write_text("def test_it(): assert 'this' == 'that'\n")
    assert not test.wait([test.Lane("some", [str(some), "-c", "/dev/null", "-p", "no:tornado"], cover=False)])
    assert "AssertionError: assert 'this' == 'that'" in capsys.readouterr().out


def test_every_mistake_of_the_list_can_be_made() -> None:
    """The text that it replaces is once in today's script, and it says what it causes."""
    listed = mutants.read_list()
    made = set()
    for each in listed:
        source = (mutants.ROOT / mutants.LUA / each.file).read_text(encoding="utf-8")
        made.add((each.file, each.made_in(source)))
        assert each.made_in(source) != source, each
        assert each.causes[:1].isupper(), each
        assert each.causes.endswith("."), each
    assert len(made) == len(listed), "two of them are the same"
    scripts = {path.name for path in (mutants.ROOT / mutants.LUA).glob("*.lua")}
    assert {each.file for each in listed} == scripts


@pytest.mark.parametrize("source", ["", "x = 2", "x = 1 x = 1"])
def test_a_mistake_in_a_script_that_has_moved_on(source: str) -> None:
    """Where the text isn't there any more, or is ambiguous, that is said rather than nothing tried."""
    with pytest.raises(mutants.MutantsError, match=r"some.lua has 'x = 1' . times"):
        mutants.Mutant("some.lua", "x = 1", "x = 2", "It is two.").made_in(source)


def test_the_core_and_its_tests_are_where_they_are_looked_for() -> None:
    """Every pattern of modules and every test that mutants are tried with is there."""
    told = tomllib.loads((mutants.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    tests = [each.removeprefix("--ignore=") for each in told["pytest_add_cli_args_test_selection"]]
    tests += [f"tests/backends/test_{name}.py" for name in (*mutants.FIRST, *mutants.OTHERS)]
    for pattern in (*told["only_mutate"], *told["also_copy"], *tests):
        assert list(mutants.ROOT.glob(pattern)), pattern


def test_the_copy_that_mutants_are_tried_in_is_whole() -> None:
    """Tests read documents and other files beside the code, so that all of them are copied."""
    told = tomllib.loads((mutants.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    listed = subprocess.run(["git", "ls-files"], cwd=mutants.ROOT, check=True, capture_output=True, text=True)
    names = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    assert names - {"eclipse_ws", "tests", "pyproject.toml"} == set(told["also_copy"])


def test_a_sample_can_be_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed is one sample of all modules; a module's name takes all of its mutants and no others."""
    names = [f"eclipse_ws.{module}.x_f__mutmut_{n}" for module in ("hub", "sessions.hub") for n in range(100)]
    monkeypatch.setattr(mutants, "MODULE", "")
    monkeypatch.setattr(mutants, "SEED", "7")
    monkeypatch.setattr(mutants, "SHARE", 0.1)
    sample = mutants.choose(names)
    assert len(set(sample) & set(names)) == 20
    assert sample == mutants.choose(reversed(names))
    monkeypatch.setattr(mutants, "SEED", "8")
    assert sample != mutants.choose(names)
    monkeypatch.setattr(mutants, "MODULE", "hub")
    assert mutants.choose(names) == sorted(names[:100])


def test_survivors_are_told_with_their_diffs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every survivor is shown, then how many of each module were noticed."""
    assert not mutants.report(["hub", "hub", "chat"], [("hub", "an off by one", "-a < b\n+a <= b")], 60)
    said = capsys.readouterr().out
    assert "survived: an off by one\n-a < b\n+a <= b" in said
    rows = [line.split() for line in said.splitlines()[-3:]]
    assert rows == [
        ["1", "1", "100.0%", "chat"],
        ["1", "2", "50.0%", "hub"],
        ["2", "3", "66.7%", "in", "all"],
    ]
    assert mutants.report(["hub"], [], 60)

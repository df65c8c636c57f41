"""Journals: what was appended is read again, or its damage is named; nothing is made up."""

from __future__ import annotations

import errno
import os
import platform
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from gmmest.errors import FileError
from gmmest.execution.journal import Journal, Record, locked, surroundings

RUN = {"optimizer": "lsq", "data": "5f2a"}


def written(path: Path, count: int = 5, run: dict[str, str] | None = None) -> list[Record]:
    """A journal of so many records of different sizes."""
    rng = np.random.default_rng(count)
    records = [Record({"number": i}, (rng.normal(size=(i, 2)), rng.normal(size=i))) for i in range(count)]
    with Journal(path, run or RUN) as journal:
        assert journal.records == ()
        for record in records:
            journal.append(record)
    return records


def same(a: Record, b: Record) -> bool:
    return a.to_bytes() == b.to_bytes()


# --- records ------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
    st.lists(
        arrays_of.arrays(np.float64, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)), max_size=3
    ),
    st.booleans(),
)
def test_a_record_comes_back_with_every_bit_and_its_order_in_memory(
    head: dict[str, object], arrays: list[np.ndarray], fortran: bool
) -> None:
    if fortran:
        arrays = [np.asfortranarray(a) for a in arrays]
    back = Record.from_bytes(Record(head, tuple(arrays)).to_bytes())
    assert back.head == head
    for before, after in zip(arrays, back.arrays, strict=True):
        assert after.shape == before.shape
        assert after.tobytes() == before.tobytes()  # not a number has a sign and a payload too
        assert after.flags.c_contiguous == before.flags.c_contiguous
        assert after.flags.f_contiguous == before.flags.f_contiguous
        assert after.flags.writeable
        assert after.flags.aligned


# --- tails and damage -----------------------------------------------------------------------------------


def test_a_file_cut_at_any_byte_gives_the_records_that_are_whole_and_goes_on(tmp_path: Path) -> None:
    path, cut = tmp_path / "journal", tmp_path / "cut"
    records = written(path)
    content = path.read_bytes()
    ends = [len(content)]
    for record in reversed(records):
        ends.append(ends[-1] - 24 - len(record.to_bytes()))
    ends.reverse()  # where the first frame ends, then each record
    near = {end + step for end in ends for step in range(-26, 3)}  # frames begin and end there
    for length in sorted({*range(0, len(content), 29), *near} & {*range(len(content) + 1)}):
        cut.write_bytes(content[:length])
        whole = max(sum(end <= length for end in ends) - 1, 0)
        with Journal(cut, RUN) as journal:
            assert len(journal.records) == whole
            assert all(map(same, journal.records, records))
            assert journal.cut == length - (ends[whole] if length >= ends[0] else 0)
            for record in records[whole:]:
                journal.append(record)
        assert cut.read_bytes() == content


def test_a_changed_bit_is_named_or_makes_a_tail_of_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    records = written(path)
    content = path.read_bytes()
    last = len(content) - 24 - len(records[-1].to_bytes())
    rng = np.random.default_rng(0)
    for place in sorted({*range(60), *range(last - 30, last + 30), *rng.integers(0, len(content), 300)}):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if place < last:
            with pytest.raises(FileError, match=r"E505 (this file is no journal|the journal is damaged at)"):
                Journal(path, RUN)
            assert path.read_bytes() == damaged
        else:
            with Journal(path, RUN) as journal:
                assert len(journal.records) == 4
                assert journal.cut == len(content) - last


def test_damage_says_which_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    content = path.read_bytes()
    second = content.index(b'"number": 1')
    path.write_bytes(content[:second] + b"?" + content[second + 1 :])
    with pytest.raises(FileError) as refusal:
        Journal(path, RUN)
    assert str(refusal.value).splitlines() == [
        "E505 the journal is damaged at record 2: its checksum does not match, and records follow it",
        f"  where: {path}",
        "  next:  copy it from where it came from; or delete it and start again",
    ]


def test_a_record_of_another_journal_is_not_taken(tmp_path: Path) -> None:
    """Same number, same length: only what the checksums start from tells them apart."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    records = written(ours)
    written(theirs, run={**RUN, "data": "6f2a"})
    a, b = ours.read_bytes(), theirs.read_bytes()
    assert len(a) == len(b)
    size = 24 + len(records[-1].to_bytes())
    ours.write_bytes(a[:-size] + b[-size:])
    with Journal(ours, RUN) as journal:
        assert len(journal.records) == 4


@pytest.mark.parametrize("content", [b"params,bse\n1,2\n", b"\0" * 500, b"gmmest journal 2\n"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match="E505 this file is no journal"):
        Journal(path, RUN)
    assert path.read_bytes() == content


# --- agreement --------------------------------------------------------------------------------------------


def test_another_run_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    before = path.read_bytes()
    with pytest.raises(FileError) as refusal:
        Journal(path, {"optimizer": "bfgs", "seed": "1", "data": "x" * 200})
    assert refusal.value.complaints[0].code == "E509"
    assert refusal.value.complaints[0].what == (
        "this journal is of another run: optimizer was lsq, and is bfgs now, data was 5f2a, and is "
        + "x" * 57
        + "... now, seed was not there, and is 1 now"
    )
    assert path.read_bytes() == before


def test_surroundings_are_the_same_twice_and_name_versions_and_processor() -> None:
    found = surroundings()
    assert found == surroundings()
    assert {"gmmest", "numpy", "scipy", "blas", "processor", "python"} <= set(found)
    assert found["numpy"] == np.__version__
    assert platform.machine() in found["processor"]
    assert all(found.values())


# --- one process at a time ---------------------------------------------------------------------------------


def test_a_journal_in_use_is_refused_and_free_again_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, RUN), pytest.raises(FileError, match="E506 another process writes to this journal"):
        Journal(path, RUN)
    Journal(path, RUN).close()
    with pytest.raises(FileError, match="E509"):
        Journal(path, {})
    Journal(path, RUN).close()  # a refusal keeps no lock


def test_a_folder_is_for_one_process_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    with locked(tmp_path) as taken_over:
        assert not taken_over
        what = f"E506 process {os.getpid()} on {platform.node()} is at work in this folder"
        with pytest.raises(FileError, match=what), locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    killed = python("""
        import os, pathlib, signal, sys
        from gmmest.execution.journal import locked
        with locked(pathlib.Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
        """).run(tmp_path)
    assert killed.returncode == -9
    assert (tmp_path / "lock").exists()
    with locked(tmp_path) as taken_over:
        assert taken_over
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_left_to_people(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("17 on elsewhere\n")
    with pytest.raises(FileError, match="E506 process 17 on elsewhere") as refusal, locked(tmp_path):
        pass
    assert "if it is gone, delete the file lock" in str(refusal.value)
    assert (tmp_path / "lock").exists()


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    (tmp_path / "journal").symlink_to(victim)
    (tmp_path / "lock").symlink_to(victim)
    for path in (tmp_path / "journal", tmp_path, Path("/dev/full")):
        with pytest.raises(FileError, match="E507 a plain file was expected here"):
            Journal(path, RUN)
    with pytest.raises(FileError, match="E507"), locked(tmp_path):
        pass
    assert victim.read_text() == ""
    with pytest.raises(FileError, match="E501 cannot open the journal: No such file or directory"):
        Journal(tmp_path / "absent" / "journal", RUN)


def test_a_file_system_without_locks_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))  # as NFS without its lock service

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        FileError, match=r"E501 cannot .* the journal: No locks available(.|\n)*another folder"
    ):
        Journal(tmp_path / "journal", RUN)
    with pytest.raises(FileError, match=r"E501 cannot .* the lock of the folder: No locks"), locked(tmp_path):
        pass


def test_a_disk_that_cannot_keep_the_name_of_a_journal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileError, match=r"E501 cannot .* the journal: Input/output error"):
        Journal(tmp_path / "journal", RUN)


# --- no room -----------------------------------------------------------------------------------------------


class python:  # noqa: N801  reads as what it runs
    def __init__(self, code: str) -> None:
        self.code = textwrap.dedent(code)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", self.code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_room_is_told_and_what_was_there_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "journal", tmp_path / "whole"
    records = written(whole)
    limit = len(whole.read_bytes()) - 30  # the last record does not fit
    full = python("""
        import resource, sys
        import numpy as np
        from gmmest.errors import FileError
        from gmmest.execution.journal import Journal, Record
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
        with Journal(sys.argv[1], {"optimizer": "lsq", "data": "5f2a"}) as journal:
            with Journal(sys.argv[2], {"optimizer": "lsq", "data": "5f2a"}) as source:
                for record in source.records:
                    try:
                        journal.append(record)
                    except FileError as error:
                        print(error)
        """).run(path, whole, limit)
    assert full.returncode == 0, full.stderr
    assert full.stdout.splitlines() == [
        "E501 cannot write to the journal: File too large",
        f"  where: {path}, after 4 records",
        "  next:  free space, and go on from this journal",
    ]
    with Journal(path, RUN) as journal:
        assert (len(journal.records), journal.cut) == (4, 0)
        journal.append(records[-1])
    assert path.read_bytes() == whole.read_bytes()

"""Files are whole or as they were, and what a killed process leaves is gone after the next start."""

import errno
import os
import signal

import numpy as np
import pytest
from PIL import Image

from vit22b_dense import files
from vit22b_dense.errors import UserError, explanation
from vit22b_dense.evaluation.pictures import write_picture
from vit22b_dense.files import naming, sweep, take_lock, write_atomically, written_whole


def killed(work) -> None:
    """Do something in a process of its own that is killed for good when it calls ``os.kill`` on itself."""
    pid = os.fork()
    if pid == 0:
        try:
            files._swept.clear()
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hidden(folder) -> list[str]:
    return sorted(path.name.split('.')[-1] for path in folder.glob('.*'))


def write_folder(path, text) -> None:
    with written_whole(path, overwrite=True) as beside:
        beside.mkdir()
        (beside / 'a').write_text(text)


def test_a_part_of_a_dead_process_is_swept_by_the_next_write(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, 'fsync', die)
    killed(lambda: write_atomically(tmp_path / 'x', 'new'))
    monkeypatch.undo()
    assert hidden(tmp_path) == ['owner', 'part']
    files._swept.clear()
    write_atomically(tmp_path / 'y', 'other')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['y']


def test_a_file_where_the_folder_should_be_is_no_file_to_be_removed(tmp_path):
    (tmp_path / 'x').write_text('precious')
    with pytest.raises(NotADirectoryError) as caught:
        write_atomically(tmp_path / 'x/y', 'new')
    assert explanation(caught.value).startswith(f'{tmp_path}/x/y: a part of this path is a file, not a folder')


@pytest.mark.parametrize('call', range(1, 4))
def test_a_folder_is_the_old_or_the_new_one_wherever_its_writer_dies(call, tmp_path, monkeypatch):
    """Killed before the first rename, between both, and before the former folder is removed."""
    write_folder(tmp_path / 'x', 'old')
    rename, rmtree, calls = os.rename, files.shutil.rmtree, []

    def counted(real):
        def step(*arguments, **options):
            calls.append(arguments)
            return die() if len(calls) == call else real(*arguments, **options)

        return step

    monkeypatch.setattr(files.os, 'rename', counted(rename))
    monkeypatch.setattr(files.shutil, 'rmtree', counted(rmtree))
    killed(lambda: write_folder(tmp_path / 'x', 'new'))
    monkeypatch.undo()
    sweep(tmp_path)
    assert (tmp_path / 'x/a').read_text() == ('new' if call == 3 else 'old')
    assert [path.name for path in tmp_path.iterdir()] == ['x']


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with written_whole(tmp_path / 'x') as beside:
        beside.write_text('whole')
        pid = os.fork()
        if pid == 0:
            sweep(tmp_path)
            os._exit(0)
        os.waitpid(pid, 0)
    assert (tmp_path / 'x').read_text() == 'whole'
    assert not hidden(tmp_path)
    for name in ('.notes.part', '.x.12.parts', '.x.part'):  # of others
        (tmp_path / name).write_text('mine')
    sweep(tmp_path)
    assert len(hidden(tmp_path)) == 3


def test_a_lock_is_held_once_and_goes_with_its_owner(tmp_path):
    lock = take_lock(tmp_path / 'lock')
    assert take_lock(tmp_path / 'lock') is None
    lock.close()
    killed(lambda: (take_lock(tmp_path / 'lock'), die()))
    take_lock(tmp_path / 'lock').close()


def test_an_error_of_the_system_gets_a_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left') as error:
        write_atomically(tmp_path / 'x', 'new')
    assert error.value.filename == str(tmp_path / 'x')
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError) as error, naming('elsewhere'):
        (tmp_path / 'absent').read_text()
    assert error.value.filename == str(tmp_path / 'absent')


def test_pictures_are_written_or_their_failure_is_named(tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    odd = tmp_path / os.fsdecode(b'caf\xe9.png')
    write_picture(odd, picture)
    with open(odd, 'rb') as file:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)
    with pytest.raises(UserError, match=r'x.nothing: a picture of 7x5 pixels cannot be stored'):
        write_picture(tmp_path / 'x.nothing', picture)
    monkeypatch.setattr(files.os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'full')))
    with pytest.raises(OSError, match='full'):
        write_picture(tmp_path / 'y.png', picture)
    assert not (tmp_path / 'y.png').exists()

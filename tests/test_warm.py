"""Scripts run in copies of a process that has its imports behind it behave as in an interpreter of their own."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import pytest

from vit22b_dense.warm import run_warm, start_warm

SCRIPT = """
import json, multiprocessing, os, sys
loaded = 'vit22b_dense' in sys.modules
print(json.dumps([loaded, __name__, sys.argv, os.getcwd(), dict(os.environ), multiprocessing.get_start_method()]))
print('elsewhere', file=sys.stderr)
if sys.argv[1] == 'fork':
    workers = multiprocessing.Pool(2)
    print(workers.map(abs, [-1, 2]))
if sys.argv[1] == 'text':
    sys.exit('a reason')
if sys.argv[1] == 'status':
    sys.exit(3)
if sys.argv[1] == 'error':
    raise KeyError('x')
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize('end', ['fork', 'text', 'status', 'error'])
def test_a_script_runs_as_in_an_interpreter_of_its_own(script, tmp_path, end):
    command, env = [str(script), end, 'b c'], dict(PATH=os.environ['PATH'], X='1')
    ours = run_warm(command, cwd=tmp_path, env=env)
    own = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    (seen, *more), (expected, *expected_more) = (done.stdout.splitlines() for done in (ours, own))
    loaded, *seen = json.loads(seen)
    expected_loaded, *expected = json.loads(expected)
    assert (loaded, expected_loaded) == (True, False)
    expected[3].pop('LC_CTYPE', None)  # which an interpreter may set at its start
    assert (seen, more) == (expected, expected_more)
    assert ours.returncode == own.returncode
    assert [done.stderr.splitlines()[0] for done in (ours, own)] == ['elsewhere'] * 2
    assert ours.stderr.splitlines()[-1] == own.stderr.splitlines()[-1]


def test_what_is_copied_runs_one_thread(script):
    run_warm([script, 'status'])
    with open(f'/proc/{forkserver._forkserver._forkserver_pid}/status') as status:
        assert 'Threads:\t1\n' in status.readlines()
    assert multiprocessing.get_start_method(allow_none=True) in (None, 'fork'), 'this process keeps its own way'


def test_it_can_be_killed_and_holds_the_files_it_was_passed(tmp_path):
    (tmp_path / 'script.py').write_text('import time\nprint("running", flush=True)\ntime.sleep(600)')
    with open(tmp_path / 'lock', 'w') as lock, open(tmp_path / 'out', 'w+') as out:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start_warm([tmp_path / 'script.py'], stdout=out, pass_fds=[lock.fileno()], start_new_session=True)
    while not (tmp_path / 'out').read_text():
        assert process.exitcode is None
        time.sleep(0.01)
    assert os.getsid(process.pid) == process.pid
    with open(tmp_path / 'lock') as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == -signal.SIGTERM
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

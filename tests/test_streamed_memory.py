"""Streaming under a limit on memory that loading all does not pass, with the same output; the 22 billion streamed."""

import json
import shutil
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != 'linux', reason='RLIMIT_DATA and /proc')


def check(result, times):
    assert result['equal']
    assert result['varied'] > 0.1
    assert result['loading_all_fails']
    assert result['resident'] < result['total'] / times


@linux
def test_a_limit_that_the_weights_do_not_fit_into(tmp_path, run_tool):
    """72 MB of weights, room for half of them."""
    sizes = dict(embed_dims=352, num_layers=24, num_heads=8, mlp_dims=1408)
    done = run_tool('tests/streamed_probe.py', json.dumps(sizes), 36 * 10**6, 'more', tmp_path)
    check(json.loads(done.stdout.splitlines()[-1]), 4)


@pytest.fixture
def room(tmp_path):
    """A folder for gigabytes, which pytest would keep for a while."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@linux
@pytest.mark.slow
def test_two_billion_parameters_under_a_limit_of_a_gigabyte(room, run_tool, capsys):
    sizes = dict(embed_dims=2048, num_layers=45, num_heads=16, mlp_dims=8192)
    done = run_tool('tests/streamed_probe.py', json.dumps(sizes), 10**9, 'all', room, fresh=True)
    result = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f'\n{result}')
    assert result['total'] > 4.5e9
    check(result, 8)


@linux
@pytest.mark.slow
def test_the_22_billion_on_one_picture(room, run_tool, capsys):
    done = run_tool('tests/streamed_22b.py', room, fresh=True)
    result = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f'\n{result}')
    assert result['parameters'] > 21.7e9
    assert len(result['classes']) > 1
    assert result['peak'] < 3e9

"""What became of a case: good, or one of the ways in which it is not."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import world
from cases import Case
from running import Outcome, run

from vit22b_dense.files import LEFT

ADVISED = re.compile(
    r'^(error:|.*\.py: error:|skipped:|.*: failed, |.*: skipped, |no picture of|.*: another subset)', re.MULTILINE
)


def judge(case: Case, made: Path, folder: Path, undisturbed: Callable[[], dict[str, str]]) -> tuple[str, str]:
    """Run a case in a copy of the world.

    Args:
        case: what to do.
        made: the world.
        folder: where the copy goes.
        undisturbed: tells what the command makes of the world as it is, as `world.result`.

    Returns:
        ``'good'``, ``'unclear'``, ``'traceback'``, ``'silent'``, ``'lost'`` or ``'hangs'``, and what the tool said.
    """
    place = world.copied(made, folder)
    if case.damage:
        case.damage(place / case.target, random.Random(case.name))
    before = world.files(place)
    outcome = run([*world.COMMANDS[case.command], *case.more], place, case.before)
    return verdict(case, place, outcome, before, undisturbed), f'status {outcome.status}\n{outcome.said}'


def verdict(case: Case, place: Path, outcome: Outcome, before: dict, undisturbed: Callable[[], dict[str, str]]) -> str:
    """The judgement of an outcome."""
    said = outcome.said
    if outcome.status is None:
        return 'hangs'
    if 'Traceback (most recent' in said or outcome.status < 0:
        return 'traceback'
    after = world.files(place)
    own = ('few/table', 'few/curve') if case.command == 'dry' else ()
    if any(after.get(name) != digest for name, digest in before.items() if not name.startswith(own)):
        return 'lost'
    if any(LEFT.fullmatch(path.name) for path in place.rglob('.*')):
        return 'lost'
    target = Path(case.target)
    wanted = [*case.names, *([target.name, target.stem] if case.target else [])]
    named = any(name in said for name in wanted) and ADVISED.search(said)
    if outcome.status:
        return 'good' if named else 'unclear'
    if named or case.may_pass:
        return 'good'
    if case.command in ('report', 'dry') and any(name in said for name in wanted):
        return 'good'
    return 'good' if not case.more and world.result(place / 'out') == undisturbed() else 'silent'

"""A share of `make crash`: what is interrupted, full, cut off or poisoned loses nothing."""

import os
import random
from pathlib import Path

import pytest

from tests.robustness.crash import CHECKS
from tests.robustness.each_operation import kills_at_each
from tests.robustness.faults import faults_of_command, faults_of_work
from tests.robustness.kills import Kills, kills_of
from tests.robustness.long_run import long_run
from tests.robustness.numerics import false_alarms, poisons
from tests.robustness.operations import Operations
from tests.robustness.powercut import Disk
from tests.robustness.races import killed_holders, races
from tests.robustness.recovery import power_cuts_of_packing, power_cuts_of_run
from tests.robustness.stops import PHASES, stops_in
from tests.robustness.tally import Tally, table
from tests.robustness.unreadable import READING, reading
from tests.robustness.work import ON_A_RUN, STATEFUL, WORKS, Work

SHORT = Work(words=("--epochs", "1", *STATEFUL), settings={})
FEW_WORKS = ("--stream, 2 workers", "--seeds 2", "early stopping", "class weights")
FEW_PHASES = (
    "scanning",
    "packing in training",
    "training with 2 workers",
    "training with 2 ranks",
    "saving",
    "plotting",
    "inspecting",
)


def holds(tally: Tally) -> None:
    assert tally.tried > 0
    assert (tally.survived, tally.failures) == (tally.tried, [])


def test_every_operation_of_a_writer_is_seen_with_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"12345")
    with Operations(tmp_path) as operations:
        (tmp_path / "new").mkdir()
        with open(tmp_path / "new" / "a", "wb") as file:
            file.write(b"abc")
            file.flush()
            os.fsync(file.fileno())
        with open(tmp_path / "old", "ab") as file:
            file.write(b"6")
        os.replace(tmp_path / "new" / "a", tmp_path / "b")
        descriptor = os.open(tmp_path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        (tmp_path / "b").unlink()
        (tmp_path / "new").rmdir()
    assert [str(each) for each in operations.seen] == [
        *("mkdir new", "create a", "write a (3 bytes)", "sync a", "write old (1 bytes)", "rename a to b"),
        *(f"sync_directory {tmp_path.name}", "unlink b", "rmdir new"),
    ]
    assert [each.offset for each in operations.seen if each.kind == "write"] == [0, 5]
    assert (tmp_path / "old").read_bytes() == b"123456"
    assert open is Operations(tmp_path).__enter__.__globals__["builtins"].open


def test_a_power_cut_keeps_what_is_synced_and_any_part_of_the_rest(tmp_path: Path) -> None:
    """States by hand: `old` is durable; `new` has its contents synced and not its name, `torn` neither."""
    (tmp_path / "old").write_bytes(b"o")
    disk = Disk(str(tmp_path))
    disk.begin(tmp_path)
    with Operations(tmp_path) as operations:
        with open(tmp_path / "new", "wb") as file:
            file.write(b"nn")
            file.flush()
            os.fsync(file.fileno())
        (tmp_path / "torn").write_bytes(b"tttt")
    for operation in operations.seen:
        disk.apply(operation)
    states = dict(disk.states(random.Random(0), draws=0))
    old = {"old": b"o"}
    assert states == {
        "all is there": {**old, "new": b"nn", "torn": b"tttt"},
        "what is not synced is lost": old,
        "names without contents": {**old, "new": b"nn", "torn": b""},
        "names, torn contents": {**old, "new": b"nn", "torn": b"tt"},
        "names, zeros": {**old, "new": b"nn", "torn": bytes(4)},
        "contents without names": old,
        "all names but that of change 1": {**old, "torn": b"tttt"},
        "the name of change 1 alone": {**old, "new": b"nn"},
        "all names but that of change 2": {**old, "new": b"nn"},
        "the name of change 2 alone": {**old, "torn": b"tttt"},
    }


def test_the_table_names_the_seed_of_each_failure() -> None:
    tally = Tally(promise=1, name="kill: EMA", seed=5)
    tally.add(5, [], count=2)
    tally.add(6, ["weights differ"])
    assert table([tally]).splitlines() == [
        "promise  what       tried  survived  seed",
        "      1  kill: EMA      3         2     5",
        "failed: kill: EMA --seed 6 --count 1: weights differ",
    ]


def test_each_promise_of_this_half_has_a_check() -> None:
    kinds = {"kill", "kill at every operation", "power cut", "full or failing disk", "unreadable", "signal"}
    kinds |= {"race of two starts", "NaN, infinity, spike", "long run"}
    assert kinds <= {name.partition(":")[0] for name in CHECKS}


@pytest.mark.slow
def test_a_killed_packing_goes_on_to_the_same_file(tmp_path: Path) -> None:
    holds(kills_of("packing", WORKS["packing"], 0, 2, tmp_path))


def test_a_power_cut_loses_no_packed_image(tmp_path: Path) -> None:
    holds(power_cuts_of_packing(WORKS["packing"], 0, 3, tmp_path))


def test_a_power_cut_loses_no_checkpoint(tmp_path: Path) -> None:
    holds(power_cuts_of_run(SHORT, 0, 1, tmp_path))


def test_a_packing_on_a_full_or_failing_disk_goes_on(tmp_path: Path) -> None:
    holds(faults_of_work("packing", WORKS["packing"], 0, 6, tmp_path))


def test_a_poisoned_step_leaves_everything_finite(tmp_path: Path) -> None:
    holds(poisons(4, 1, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW_WORKS)
def test_kills_change_no_bit(name: str, tmp_path: Path) -> None:
    holds(kills_of(name, WORKS[name], 1, 1, tmp_path))


@pytest.mark.slow
def test_a_run_on_a_full_or_failing_disk_goes_on(tmp_path: Path) -> None:
    holds(faults_of_work("training", SHORT, 1, 12, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ON_A_RUN.keys() - {"comparing", "the schedule", "inspecting"}))
def test_a_command_on_a_full_or_failing_disk_leaves_nothing(name: str, tmp_path: Path) -> None:
    holds(faults_of_command(name, ON_A_RUN[name], 0, 3, tmp_path))


@pytest.mark.slow
def test_a_command_that_is_killed_at_an_operation_leaves_nothing(tmp_path: Path) -> None:
    holds(kills_at_each("a model card", ON_A_RUN["a model card"], 0, 2, tmp_path))


@pytest.mark.slow
def test_a_run_that_is_killed_at_an_operation_goes_on(tmp_path: Path) -> None:
    holds(kills_at_each("training", SHORT, 6, 2, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a run to resume", "files for predicting", "files for a model card"])
def test_what_the_disk_fails_to_read_changes_nothing(name: str, tmp_path: Path) -> None:
    holds(reading(name, READING[name], 0, 2, tmp_path))


@pytest.mark.slow
def test_an_image_that_the_disk_fails_to_read_once_is_packed_the_next_time(tmp_path: Path) -> None:
    holds(reading("images to pack", READING["images to pack"], 0, 1, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("phase", FEW_PHASES)
def test_a_signal_saves(phase: str, tmp_path: Path) -> None:
    assert phase in PHASES
    holds(stops_in(phase, 0, 1, tmp_path))


@pytest.mark.slow
def test_a_signal_after_the_last_look_at_it_is_no_success(tmp_path: Path) -> None:
    holds(stops_in("writing a page", 0, 1, tmp_path))


@pytest.mark.slow
def test_one_of_two_starts_wins(tmp_path: Path) -> None:
    holds(races(0, 3, tmp_path / "races"))
    holds(killed_holders(0, 1, tmp_path / "holders"))


@pytest.mark.slow
def test_poisons_of_each_kind_are_contained_and_no_recipe_raises_a_false_alarm(tmp_path: Path) -> None:
    holds(poisons(0, 9, tmp_path / "poisons"))
    holds(false_alarms(0, 9, tmp_path / "recipes"))


@pytest.mark.slow
def test_nothing_grows_over_the_epochs(tmp_path: Path) -> None:
    holds(long_run(0, 24, tmp_path))


def test_a_check_of_many_trials_is_repeated_trial_by_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The seed after `failed:` in the table repeats one trial alone, which draws the same again."""
    drawn: list[float] = []

    def trial(kills: Kills, seed: int) -> tuple[int, list[str]]:
        drawn.append(kills.generator(seed).random())
        return 1, ["the end differs"] if seed == 4 else []

    monkeypatch.setattr(Kills, "trial", trial)
    many = kills_of("packing", WORKS["packing"], 3, 3, tmp_path / "many")
    assert many.failures == [(4, "the end differs")]
    assert (many.tried, many.survived) == (3, 2)
    alone = kills_of("packing", WORKS["packing"], 4, 1, tmp_path / "alone")
    assert alone.failures == many.failures
    assert len(set(drawn[:3])) == 3
    assert drawn[3] == drawn[1]

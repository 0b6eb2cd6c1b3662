"""What a killed job holds for ever is freed; what lives, or may yet be freed by Ray itself, is left alone."""

from __future__ import annotations

import pytest

from pkdray.orphans import Group, free_orphans, orphans


@pytest.mark.parametrize(
    ("group", "freed"),
    [
        (Group("a", "06", "fb", False), True),
        (Group("a", "06", None, False), True),
        (Group("a", "06", "e4", False), False),  # its creator lives, as a detached actor does
        (Group("a", "07", "fb", False), False),
        (Group("a", "06", "fb", True), False),
    ],
)
def test_orphans_are_of_a_dead_job_and_of_a_dead_creator(group: Group, freed: bool) -> None:
    assert orphans([group], ["05", "06"], lambda actor: actor == "e4") == (["a"] if freed else [])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_living_jobs_groups_are_seen_and_left_alone() -> None:
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    from pkdray import orphans as room

    mine = placement_group([{"CPU": 0.25}])
    try:
        ray.get(mine.ready())
        seen = {group.identity: group for group in room._groups()}
        job = ray.get_runtime_context().get_job_id()
        assert seen[mine.id.hex()] == Group(mine.id.hex(), job, None, False)
        assert mine.id.hex() not in free_orphans()
        assert placement_group_table(mine)["state"] == "CREATED"
    finally:
        remove_placement_group(mine)
    # Of a job that has ended it would be one.
    assert orphans([seen[mine.id.hex()]], [job], room._lives) == [mine.id.hex()]

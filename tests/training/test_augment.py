from __future__ import annotations

import torch

from training.augment import shift_and_rotate


def test_without_amounts_images_stay_and_no_random_number_is_drawn() -> None:
    x = torch.rand(2, 1, 8, 8)
    before = torch.get_rng_state()
    assert shift_and_rotate(x, max_shift=0, max_rotation_deg=0) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_seeds_move_images_equally_and_each_image_differently() -> None:
    x = torch.rand(1, 1, 16, 16).expand(4, -1, -1, -1)
    moved: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(3)
        moved.append(shift_and_rotate(x, max_shift=0.1, max_rotation_deg=20))
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0][0], moved[0][1])


def test_a_shift_stays_within_its_part_of_the_side_and_repeats_the_edge() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(32.0).expand(64, 1, 32, 32)  # the value of a pixel is its column
    moved = shift_and_rotate(ramp, max_shift=0.125, max_rotation_deg=0)
    columns = moved[:, 0, 16, 16] - 16
    assert 3 < columns.abs().max() <= 4
    assert moved.min() >= 0
    assert moved.max() <= 31


def test_a_rotation_keeps_the_centre() -> None:
    torch.manual_seed(0)
    x = torch.zeros(8, 1, 33, 33)
    x[:, :, 16, 16] = 1
    x[:, :, 16, 30] = 1
    moved = shift_and_rotate(x, max_shift=0, max_rotation_deg=45)
    torch.testing.assert_close(moved[:, 0, 16, 16], torch.ones(8))
    assert moved[:, 0, 16, 30].min() < 0.1

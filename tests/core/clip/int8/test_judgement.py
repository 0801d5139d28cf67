"""What int8 costs a search: errors relative to the spread, and whether the same images are found."""

import numpy as np
import pytest

from core.clip.int8.judgement import Agreement, Error, Vectors, spread


def vectors(seed: int, count: int = 40) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def test_spread_is_the_mean_distance_between_different_rows() -> None:
    """Three points on a line, one, one and two apart."""
    assert spread(np.array([[0.0], [1.0], [2.0]], np.float32)) == pytest.approx(4 / 3)


def test_same_vectors_have_no_error() -> None:
    """Nor can a search tell them apart."""
    texts, images = vectors(0), vectors(1)

    assert Error(0.0, 0.0) == Error.of(images, images)
    assert Agreement(1.0, 1.0) == Agreement.of((texts, images), (texts, images))


def test_error_is_relative_to_the_spread() -> None:
    """A shift by a tenth of the spread is a tenth for every row."""
    expected = vectors(2)
    actual = expected.copy()
    actual[:, 0] += spread(expected) / 10

    error = Error.of(expected, actual)

    assert (error.mean, error.p99) == pytest.approx((0.1, 0.1), rel=1e-4)


def test_p99_sees_the_few_that_are_far_off() -> None:
    """The mean hides them."""
    expected = vectors(3, count=200)
    actual = expected.copy()
    actual[:4] += 10

    error = Error.of(expected, actual)

    assert error.p99 > 10 * error.mean


def test_agreement_counts_texts_and_shared_images() -> None:
    """Of two texts one finds another best image, and each shares nine of ten."""
    texts = np.array([[1, 0], [0, 1]], np.float32)
    angles = np.linspace(0.01, np.pi / 2 - 0.01, 21)
    before = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    after = before.copy()
    # The best image of the first text is now behind its ten best, and among those of the second.
    after[0] = before[12]

    agreement = Agreement.of((texts, before), (texts, after))

    assert Agreement(top_1=0.5, top_10=0.9) == agreement


def test_not_a_number_is_no_small_error() -> None:
    """Whoever compares it with a bound must find it over."""
    expected = vectors(4)
    actual = expected.copy()
    actual[0, 0] = np.nan

    assert not Error.of(expected, actual).mean <= 1

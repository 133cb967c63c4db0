from datetime import UTC, datetime, timedelta

import pytest
import typer

from bmi.cli import options, output


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2G", 2 << 30),
        ("20GiB", 20 << 30),
        ("512M", 512 << 20),
        ("512 MiB", 512 << 20),
        ("1.5g", 3 << 29),
        ("1T", 1 << 40),
        ("64k", 1 << 16),
        ("4096", 4096),
        ("4096B", 4096),
    ],
)
def test_sizes(text: str, amount: int) -> None:
    assert options.size(text) == amount


@pytest.mark.parametrize("text", ["", "G", "0", "-1G", "2GB", "1.3", "2 G iB", "1e9", "٣G", "2P", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it as 2G, 20GiB or 512M"):
        options.size(text)


@pytest.mark.parametrize(
    ("text", "length"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604800)]
)
def test_lengths_of_time(text: str, length: float) -> None:
    assert options.span(text) == length


@pytest.mark.parametrize("text", ["", "0", "soon", "-1h", "1w"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it as 90s"):
        options.span(text)


def test_moments() -> None:
    assert options.moment("2027-01-31") == datetime(2027, 1, 31, tzinfo=UTC)
    assert options.moment("2027-01-31T10:00:00+01:00") == datetime(2027, 1, 31, 9, tzinfo=UTC)
    assert abs(options.moment("30d") - datetime.now(UTC) - timedelta(days=30)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (2 << 30, "2 GiB"),
        (1536 << 20, "1.5 GiB"),
        (1000 << 20, "1000 MiB"),
        (5 << 40, "5 TiB"),
    ],
)
def test_sizes_are_shown_in_the_units_that_are_read(amount: int, text: str) -> None:
    assert output.size(amount) == text
    if amount and amount != 1023:
        assert options.size(text) == amount


@pytest.mark.parametrize(("past", "text"), [(-5, "0 s"), (90, "1 min"), (7300, "2 h"), (3 * 86400, "3 d")])
def test_ages(past: float, text: str) -> None:
    assert output.age(datetime.now(UTC) - timedelta(seconds=past)) == text


@pytest.mark.parametrize(
    ("span", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61.4, "1 min 01 s"), (3700, "1 h 01 min")]
)
def test_spans(span: float, text: str) -> None:
    assert output.seconds(span) == text

from pathlib import Path

import pytest

from bmi.drivers.target.tgt_log import Log

# As tgtd 1.0.85 prints it, cut down.
OPENING = (
    "tgtd: bs_rbd_init(552) bs_rbd_init: clientid x\ntgtd: bs_rbd_open(431) bs_rbd_open: pool: rbd image: a\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "tgtd.log")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tgtd: bs_rbd_open(442) bs_rbd_open: rbd_open: -2", "image cannot be opened: No such file"),
        ("tgtd: bs_rbd_open(436) bs_rbd_open: rados_ioctx_create: -2", "pool cannot be opened: No such file"),
        (
            "tgtd: bs_rbd_init(649) bs_rbd_init: rados_connect: -110",
            "no connection to Ceph: Connection timed out",
        ),
        (
            "tgtd: bs_rbd_init(627) bs_rbd_init: rados_conf_read_file: -13",
            "cannot be read: Permission denied",
        ),
        ("tgtd: bs_rbd_init(615) bs_rbd_init: rados_create: -22", "rados_create failed: Invalid argument"),
    ],
)
def test_why_an_image_could_not_be_opened(log: Log, line: str, said: str) -> None:
    log.path.write_text("tgtd: bs_rbd_open(442) bs_rbd_open: rbd_open: -5\n")
    before = log.size()
    with log.path.open("a") as file:
        file.write(f"{OPENING}{line}\n")
    assert said in (log.ceph_error_since(before) or "")


def test_a_log_that_says_nothing_of_ceph(log: Log) -> None:
    assert log.size() == 0
    log.path.write_text(OPENING)
    assert log.ceph_error_since(0) is None
    assert log.end_since(0) == OPENING.strip()


def test_a_long_log_is_emptied(log: Log) -> None:
    log.path.write_bytes(bytes(1 << 20))
    log.trim()
    assert log.size() == 1 << 20
    log.path.write_bytes(bytes((1 << 20) + 1))
    log.trim()
    assert log.size() == 0

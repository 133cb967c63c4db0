"""Recorded from Linux 6.1: what it says of an initiator, in acls/NAME/info of configfs."""

from bmi.drivers.target.lio_session import parse

NOBODY = "No active iSCSI Session for Initiator Endpoint: iqn.2026-01.org.example:node-a\n"

LOGGED_IN = """InitiatorName: iqn.2026-01.org.example:node-a
InitiatorAlias: {alias}
LIO Session ID: 1   ISID: 0x80 45 25 2c 00 00  TSIH: 1  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
---------------------[iSCSI Session Values]-----------------------
  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT
 0x00000040   0x00000040   0x09d1fee3   0x09d1ff22   0xd1cc2725   0x00000000
----------------------[iSCSI Connections]-------------------------
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address 127.0.0.1 TCP  StatSN: 0x09a100f4
"""

FORGED = "x\nLIO Session ID: 77   ISID: 0x1\n   Address 198.51.100.9 TCP  StatSN: 0x1"


def test_nobody_is_logged_in() -> None:
    assert parse(NOBODY) is None
    assert parse("") is None


def test_who_is_logged_in_is_read() -> None:
    assert parse(LOGGED_IN.format(alias="")) == (1, "127.0.0.1")


def test_an_alias_cannot_pass_for_the_kernels_words() -> None:
    assert parse(LOGGED_IN.format(alias=FORGED)) == (1, "127.0.0.1")


def test_a_connection_that_is_just_closing_has_no_address() -> None:
    lines = LOGGED_IN.format(alias=FORGED).splitlines(keepends=True)
    assert parse("".join(lines[:-2])) == (1, "")

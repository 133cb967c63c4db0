"""The Redfish driver with controllers that have their own ways. What all drivers do is in the contract suite."""

import datetime as dt
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bmi.drivers import Site
from bmi.drivers.power import Bmc, BootDevice, PowerState
from bmi.drivers.power.redfish import RedfishPower
from bmi.errors import BadRequest, BmcRefused, BmcUnreachable, SettingsInvalid
from tests.unit.drivers.power.board import (
    MANAGER,
    PASSWORD,
    RESET,
    SETTINGS,
    SYSTEM,
    USERNAME,
    Board,
    serving,
)

SHORT = 0.5  # seconds that a test waits for what will not happen

Serve = Callable[..., Bmc]
Drive = Callable[..., RedfishPower]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    with ExitStack() as stack:

        def make(**options: object) -> RedfishPower:
            made = RedfishPower({"timeout": 5, **options}, Site(tmp_path, "0badcafe"))
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(board: Board, certificate: Path | None = None) -> Bmc:
            stack.enter_context(serving(board, certificate))
            return Bmc(board.address, USERNAME, PASSWORD)

        yield start


# --- power -----------------------------------------------------------------------------------------------


def test_a_power_order_that_is_taken_and_ignored_is_found_out(serve: Serve, drive: Drive) -> None:
    bmc = serve(Board(ignores_power=True))
    with pytest.raises(BmcRefused, match=r"after 0\.5 s still reports power Off"):
        drive(timeout=SHORT).on(bmc)


def test_on_waits_until_the_power_is_there(serve: Serve, drive: Drive) -> None:
    board = Board(hesitates=3)
    drive().on(serve(board))
    assert board.power == "On"
    assert board.changes(RESET) == [{"ResetType": "On"}]


def test_on_waits_until_a_node_has_gone_down(serve: Serve, drive: Drive) -> None:
    board = Board(power="PoweringOff", _coming="Off", hesitates=2)
    drive().on(serve(board))
    assert board.power == "On"


def test_off_does_not_wait_for_a_node_that_comes_up(serve: Serve, drive: Drive) -> None:
    board = Board(power="PoweringOn")
    drive().off(serve(board))
    assert board.changes(RESET) == [{"ResetType": "ForceOff"}]


@pytest.mark.parametrize("word", ["On", "PoweringOn", "PoweringOff", "Paused"])
def test_a_node_in_between_has_power(serve: Serve, drive: Drive, word: str) -> None:
    assert drive().state(serve(Board(power=word))) is PowerState.ON


def test_a_controller_without_a_power_state_is_refused(serve: Serve, drive: Drive) -> None:
    with pytest.raises(BmcRefused, match="PowerState"):
        drive().state(serve(Board(power=None)))


def test_an_order_refused_as_a_repetition_is_fine_when_the_power_is_there(serve: Serve, drive: Drive) -> None:
    board = Board(_coming="On", hesitates=1, refuses_repetition=True)
    drive().on(serve(board))
    assert board.power == "On"


def test_force_on_is_taken_where_it_is_all_there_is(serve: Serve, drive: Drive) -> None:
    board = Board(resets=("ForceOn", "ForceOff"))
    drive().on(serve(board))
    assert board.changes(RESET) == [{"ResetType": "ForceOn"}]


def test_a_controller_that_cannot_switch_off_is_refused(serve: Serve, drive: Drive) -> None:
    with pytest.raises(BmcRefused, match="has no reset ForceOff, only On"):
        drive().off(serve(Board(power="On", resets=("On",))))


# --- what to boot from -----------------------------------------------------------------------------------


def test_the_boot_target_is_set_for_every_start_and_nothing_else_is_sent(serve: Serve, drive: Drive) -> None:
    board = Board()
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.changes(SYSTEM) == [
        {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Continuous"}}
    ]


def test_a_boot_target_that_is_set_is_not_set_again(serve: Serve, drive: Drive) -> None:
    board, power = Board(), drive()
    bmc = serve(board)
    power.boot_from(bmc, BootDevice.NETWORK)
    power.boot_from(bmc, BootDevice.NETWORK)
    assert len(board.changes(SYSTEM)) == 1


def test_a_boot_target_for_one_start_is_set_again(serve: Serve, drive: Drive) -> None:
    board = Board(boot={"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"})
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideEnabled"] == "Continuous"


def test_once_is_taken_where_continuous_is_refused(serve: Serve, drive: Drive) -> None:
    board = Board(refuses_continuous=True)
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "Pxe"
    assert board.boot["BootSourceOverrideEnabled"] == "Once"


def test_continuous_is_not_tried_where_it_is_not_offered(serve: Serve, drive: Drive) -> None:
    board = Board(refuses_continuous=True)
    board.boot["BootSourceOverrideEnabled@Redfish.AllowableValues"] = ["Disabled", "Once"]
    drive().boot_from(serve(board), BootDevice.DISK)
    assert [body["Boot"]["BootSourceOverrideEnabled"] for body in board.changes(SYSTEM)] == ["Once"]


def test_a_boot_order_that_is_taken_and_ignored_is_found_out(serve: Serve, drive: Drive) -> None:
    bmc = serve(Board(ignores_boot=True))
    with pytest.raises(BmcRefused, match=r"to boot from Pxe .* boot override None \(Disabled\)"):
        drive(timeout=SHORT).boot_from(bmc, BootDevice.NETWORK)


def test_a_target_that_the_controller_does_not_have_is_refused(serve: Serve, drive: Drive) -> None:
    board = Board()
    board.boot["BootSourceOverrideTarget@Redfish.AllowableValues"] = ["None", "Hdd"]
    with pytest.raises(BmcRefused, match="has no boot target Pxe, only Hdd, None"):
        drive().boot_from(serve(board), BootDevice.NETWORK)


def over_http(bmc: Bmc, way: str = "http") -> Bmc:
    return replace(bmc, options={**bmc.options, "network_boot": way})


def test_a_node_may_boot_by_uefi_http(serve: Serve, drive: Drive) -> None:
    board = Board()
    board.boot["BootSourceOverrideTarget@Redfish.AllowableValues"] = ["None", "Pxe", "UefiHttp", "Hdd"]
    bmc, power = over_http(serve(board)), drive()
    power.boot_from(bmc, BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "UefiHttp"
    assert board.boot["BootSourceOverrideEnabled"] == "Continuous"
    assert power.boots_from(bmc) is BootDevice.NETWORK
    power.boot_from(bmc, BootDevice.NETWORK)
    assert len(board.changes(SYSTEM)) == 1
    power.boot_from(bmc, BootDevice.DISK)
    assert board.boot["BootSourceOverrideTarget"] == "Hdd"
    power.reset_boot(bmc)
    assert power.boots_from(bmc) is None


def test_uefi_http_is_not_asked_of_a_controller_that_does_not_offer_it(serve: Serve, drive: Drive) -> None:
    board = Board()
    with pytest.raises(BmcRefused, match="has no boot target UefiHttp, only Hdd, None, Pxe"):
        drive().boot_from(over_http(serve(board)), BootDevice.NETWORK)
    assert board.changes(SYSTEM) == []


def test_an_unknown_way_to_boot_from_the_network_is_refused(serve: Serve, drive: Drive) -> None:
    with pytest.raises(BadRequest, match="option network_boot is 'tftp'"):
        drive().boot_from(over_http(serve(Board()), "tftp"), BootDevice.NETWORK)


def test_supermicro_gets_its_boot_mode_back(serve: Serve, drive: Drive) -> None:
    board = Board(manufacturer="Supermicro", needs_mode=True)
    board.boot["BootSourceOverrideMode"] = "UEFI"
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "Pxe"
    assert board.boot["BootSourceOverrideMode"] == "UEFI"


def test_supermicro_without_a_boot_mode_gets_none(serve: Serve, drive: Drive) -> None:
    board = Board(manufacturer="Supermicro")
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "Pxe"
    assert "BootSourceOverrideMode" not in board.boot


def test_a_boot_target_may_wait_in_a_settings_resource(serve: Serve, drive: Drive) -> None:
    board = Board(pending={"BootSourceOverrideTarget": None, "BootSourceOverrideEnabled": "Disabled"})
    bmc, power = serve(board), drive(timeout=2)
    power.boot_from(bmc, BootDevice.NETWORK)
    assert board.pending == {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Continuous"}
    assert board.boot["BootSourceOverrideTarget"] == "None"
    power.boot_from(bmc, BootDevice.NETWORK)
    assert len(board.changes(SETTINGS)) == 1
    assert power.state(bmc) is PowerState.OFF


def test_a_controller_that_wants_etags_gets_them(serve: Serve, drive: Drive) -> None:
    board = Board(wants_etag=True)
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "Pxe"


@pytest.mark.parametrize("times", [1, 2])
def test_a_resource_that_changed_meanwhile_is_read_anew(serve: Serve, drive: Drive, times: int) -> None:
    board = Board(wants_etag=True, restless=times)
    drive().boot_from(serve(board), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideTarget"] == "Pxe"


def test_a_resource_that_never_rests_is_given_up(serve: Serve, drive: Drive) -> None:
    board = Board(wants_etag=True, restless=100)
    with pytest.raises(BmcRefused, match="HTTP 428"):
        drive().boot_from(serve(board), BootDevice.NETWORK)


def with_mode(bmc: Bmc, mode: str) -> Bmc:
    return replace(bmc, options={"boot_mode": mode})


def test_a_boot_mode_is_chosen_and_read_back(serve: Serve, drive: Drive) -> None:
    board = Board()
    board.boot["BootSourceOverrideMode"] = "Legacy"
    bmc, power = serve(board), drive()
    power.boot_from(bmc, BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideMode"] == "Legacy"  # nobody asked for another
    for _ in range(2):
        power.boot_from(with_mode(bmc, "uefi"), BootDevice.NETWORK)
        assert board.boot["BootSourceOverrideMode"] == "UEFI"
    assert [("BootSourceOverrideMode" in body["Boot"]) for body in board.changes(SYSTEM)] == [False, True]
    power.boot_from(with_mode(bmc, "legacy"), BootDevice.NETWORK)
    assert board.boot["BootSourceOverrideMode"] == "Legacy"


def test_a_boot_mode_that_cannot_be_changed_need_not_be(serve: Serve, drive: Drive) -> None:
    board = Board(fixed_mode=True)
    board.boot["BootSourceOverrideMode"] = "UEFI"
    bmc, power = serve(board), drive()
    power.boot_from(with_mode(bmc, "uefi"), BootDevice.NETWORK)
    assert "BootSourceOverrideMode" not in board.changes(SYSTEM)[0]["Boot"]
    with pytest.raises(BmcRefused, match="starts in mode UEFI, and refuses Legacy"):
        power.boot_from(with_mode(bmc, "legacy"), BootDevice.NETWORK)


def test_a_boot_mode_that_is_taken_and_ignored_is_found_out(serve: Serve, drive: Drive) -> None:
    board = Board(ignores_boot=True)
    board.boot["BootSourceOverrideMode"] = "Legacy"
    with pytest.raises(BmcRefused, match="to boot from Pxe in mode UEFI"):
        drive(timeout=SHORT).boot_from(with_mode(serve(board), "uefi"), BootDevice.NETWORK)


def test_a_boot_mode_that_nobody_tells_of_cannot_be_chosen(serve: Serve, drive: Drive) -> None:
    bmc = serve(Board())
    with pytest.raises(BmcRefused, match="tells of no boot mode"):
        drive().boot_from(with_mode(bmc, "uefi"), BootDevice.NETWORK)
    with pytest.raises(BmcRefused, match="boot_mode is 'bios'"):
        drive().boot_from(with_mode(bmc, "bios"), BootDevice.NETWORK)


# --- which system ----------------------------------------------------------------------------------------


def test_one_of_several_systems_must_be_named(serve: Serve, drive: Drive) -> None:
    board = Board(systems=(SYSTEM, "/redfish/v1/Systems/2"))
    bmc = serve(board)
    with pytest.raises(BmcRefused, match=r"2 systems: .*/Systems/1, .*/Systems/2"):
        drive().state(bmc)
    named = Bmc(bmc.address, bmc.username, bmc.password, {"system": SYSTEM})
    assert drive().state(named) is PowerState.OFF


def test_a_controller_without_a_system_is_refused(serve: Serve, drive: Drive) -> None:
    with pytest.raises(BmcRefused, match="0 systems: none"):
        drive().state(serve(Board(systems=())))


def test_a_system_that_is_not_there_is_refused(serve: Serve, drive: Drive) -> None:
    bmc = serve(Board())
    with pytest.raises(BmcRefused, match="/redfish/v1/Systems/9 not found"):
        drive().state(Bmc(bmc.address, bmc.username, bmc.password, {"system": "/redfish/v1/Systems/9"}))


# --- sessions --------------------------------------------------------------------------------------------


def test_one_log_in_serves_many_verbs_and_ends_with_the_driver(serve: Serve, drive: Drive) -> None:
    board, power = Board(), drive()
    bmc = serve(board)
    power.state(bmc)
    power.on(bmc)
    power.boot_from(bmc, BootDevice.NETWORK)
    assert board.log_ins == 1
    power.close()
    assert not board.tokens


def test_a_session_that_the_controller_ended_is_opened_anew(serve: Serve, drive: Drive) -> None:
    board, power = Board(), drive()
    bmc = serve(board)
    power.state(bmc)
    board.tokens.clear()
    power.on(bmc)
    assert board.power == "On"
    assert board.log_ins == 2


def test_a_refusal_leaves_no_session_behind(serve: Serve, drive: Drive) -> None:
    board, power = Board(systems=()), drive()
    bmc = serve(board)
    for _ in range(3):
        with pytest.raises(BmcRefused):
            power.state(bmc)
    assert not board.tokens


def test_a_controller_without_sessions_gets_the_password_with_each_request(
    serve: Serve, drive: Drive
) -> None:
    board = Board(has_sessions=False)
    drive().on(serve(board))
    assert board.power == "On"


# --- failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_busy_controller_is_worth_another_try(serve: Serve, drive: Drive, status: int) -> None:
    with pytest.raises(BmcUnreachable, match=f"HTTP {status}: refused with {status}") as failure:
        drive().state(serve(Board(breaks_with=status)))
    assert failure.value.transient


@pytest.mark.parametrize("status", [400, 405, 500])
def test_a_controller_that_says_no_is_quoted(serve: Serve, drive: Drive, status: int) -> None:
    with pytest.raises(BmcRefused, match=f"HTTP {status}: refused with {status}"):
        drive().state(serve(Board(breaks_with=status)))


def test_a_user_without_the_right_is_refused(serve: Serve, drive: Drive) -> None:
    with pytest.raises(BmcRefused, match=f"refuses user '{USERNAME}'"):
        drive().state(serve(Board(breaks_with=403)))


@pytest.mark.parametrize("page", ["<html>Welcome</html>", "{"])
def test_a_web_server_that_is_no_controller_is_refused(serve: Serve, drive: Drive, page: str) -> None:
    with pytest.raises(BmcRefused, match="Redfish"):
        drive().state(serve(Board(page=page)))


def test_a_silent_controller_is_given_up_after_the_timeout(drive: Drive) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(BmcUnreachable, match="timed out"):
            drive(timeout=SHORT).state(Bmc(f"http://127.0.0.1:{silent.getsockname()[1]}", "u", "p"))
        assert time.monotonic() - began < 4  # sushy's own three tries would take 5.5


@pytest.mark.parametrize("address", ["10.0.0.1", "ftp://10.0.0.1", "http://", "https://user:hush@10.0.0.1"])
def test_an_address_that_is_no_plain_url_is_refused(drive: Drive, address: str) -> None:
    with pytest.raises(BmcRefused, match="not a plain URL") as failure:
        drive().state(Bmc(address, "u", "p"))
    assert "hush" not in str(failure.value)


def test_a_controller_that_comes_back_is_used_again(serve: Serve, drive: Drive) -> None:
    board, power = Board(), drive()
    bmc = serve(board)
    power.state(bmc)
    board.breaks_with = 500
    with pytest.raises(BmcRefused):
        power.state(bmc)
    board.breaks_with = None
    assert power.state(bmc) is PowerState.OFF


# --- what a former user left -----------------------------------------------------------------------------

CHOSEN = {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Continuous"}


def test_an_override_is_ended_and_nothing_else_is_sent(serve: Serve, drive: Drive) -> None:
    board = Board(boot=dict(CHOSEN))
    power = drive()
    bmc = serve(board)
    power.reset_boot(bmc)
    power.reset_boot(bmc)
    assert board.changes(SYSTEM) == [{"Boot": {"BootSourceOverrideEnabled": "Disabled"}}]
    assert power.boots_from(bmc) is None


def test_an_override_that_waits_for_the_next_start_is_ended(serve: Serve, drive: Drive) -> None:
    board = Board(pending=dict(CHOSEN))
    drive().reset_boot(serve(board))
    assert board.pending == CHOSEN | {"BootSourceOverrideEnabled": "Disabled"}


def test_the_target_is_taken_away_where_an_override_cannot_be_ended(serve: Serve, drive: Drive) -> None:
    board = Board(refuses_disabled=True)
    board.boot |= CHOSEN
    drive().reset_boot(serve(board))
    assert board.boot["BootSourceOverrideTarget"] == "None"


def test_an_override_that_stays_is_found_out(serve: Serve, drive: Drive) -> None:
    board = Board(boot=dict(CHOSEN), ignores_boot=True)
    with pytest.raises(BmcRefused, match=r"to forget what to boot from .* boot override Pxe \(Continuous\)"):
        drive(timeout=SHORT).reset_boot(serve(board))


@pytest.mark.parametrize("place", [SYSTEM, MANAGER])
def test_a_virtual_drive_is_emptied_wherever_it_is(serve: Serve, drive: Drive, place: str) -> None:
    board = Board(media_at=place, image="http://192.0.2.1/mine.iso")
    power = drive()
    bmc = serve(board)
    assert list(power.media(bmc)) == ["http://192.0.2.1/mine.iso"]
    power.reset_boot(bmc)
    assert (board.image, list(power.media(bmc))) == (None, [])
    power.reset_boot(bmc)
    assert len(board.changes(board.eject)) == 1


def test_the_drives_of_a_manager_of_several_servers_are_left_alone(serve: Serve, drive: Drive) -> None:
    board = Board(media_at=MANAGER, image="x.iso", servers=2)
    drive().reset_boot(serve(board))
    assert board.image == "x.iso"


def test_an_image_that_stays_in_its_drive_is_found_out(serve: Serve, drive: Drive) -> None:
    board = Board(media_at=SYSTEM, image="x.iso", ignores_eject=True)
    with pytest.raises(BmcRefused, match=r"to empty its virtual drives .* virtual media x\.iso"):
        drive(timeout=SHORT).reset_boot(serve(board))


@pytest.mark.parametrize("options", [{"timeout": 0}, {"connect_timeout": -1}, {"retries": 3}])
def test_options_that_cannot_be_used_are_refused(drive: Drive, options: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid, match=next(iter(options))):
        drive(**options)


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a board of the tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "board.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Serve, drive: Drive, certificate: Path
) -> None:
    with pytest.raises(BmcRefused, match="verify_tls") as failure:
        drive().state(serve(Board(), certificate))
    assert "certificate" in failure.value.message


def test_a_controller_without_tls_is_refused(serve: Serve, drive: Drive) -> None:
    bmc = serve(Board())
    with pytest.raises(BmcRefused, match="does not speak TLS"):
        drive().state(Bmc(bmc.address.replace("http:", "https:"), USERNAME, PASSWORD))


def test_an_issuer_can_be_trusted(serve: Serve, drive: Drive, certificate: Path) -> None:
    power = drive(ca_file=str(certificate))
    assert power.state(serve(Board(), certificate)) is PowerState.OFF


def test_checking_certificates_can_be_switched_off(serve: Serve, drive: Drive, certificate: Path) -> None:
    power = drive(verify_tls=False)
    assert power.state(serve(Board(), certificate)) is PowerState.OFF

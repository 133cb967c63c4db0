"""`bmi serve` with a certificate of its own, and what it says about one that cannot be used."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bmi.client import Client
from bmi.client.errors import Unreachable
from bmi.wait import wait_until
from tests.databases import free_port


class Files:
    """A certificate that is its own authority, and its key."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "api.pem", folder / "api.key"

    def make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bmi")])
        begin = datetime.now(UTC) - timedelta(hours=1)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        self.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.make()
    return made


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def config(tmp_path: Path, files: Files, port: int) -> Path:
    path = tmp_path / "bmi.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\ncache_dir = "{tmp_path}/cache"\n'
        f'[api]\nport = {port}\ncertificate = "{files.certificate}"\ncertificate_key = "{files.key}"\n'
        + "".join(f'[{family}]\ndriver = "memory"\n' for family in ("storage", "target", "leg"))
    )
    return path


def serve(config: Path, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "bmi.cli", "serve", "--config", str(config)], stdout=out, stderr=out
        )


@pytest.fixture
def service(config: Path, tmp_path: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    log = tmp_path / "log"
    process = serve(config, log)
    try:
        wait_until(lambda: presented(port), deadline=60, what="the service", next_step=log.read_text())
        yield process
    finally:
        process.terminate()
        process.wait(30)


def presented(port: int) -> str:
    """Return the certificate that is shown, empty if nobody answers."""
    try:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=5).strip()
    except OSError:
        return ""


def test_tokens_travel_encrypted_and_a_renewed_certificate_needs_no_restart(
    service: "subprocess.Popen[bytes]",
    files: Files,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"https://127.0.0.1:{port}"
    with pytest.raises(Unreachable, match="certificate"), Client(url) as client:
        client.version()
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"http://127.0.0.1:{port}/v1/version")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.certificate))
    with Client(url) as client:
        assert client.version()
    answer = httpx2.get(f"{url}/v1/version")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"

    before = presented(port)
    assert before == files.certificate.read_text().strip()
    files.key.write_text("not a key")
    os.kill(service.pid, signal.SIGHUP)
    wait_until(
        lambda: "the old certificate stays in use" in (tmp_path / "log").read_text(),
        deadline=20,
        what="a word about it",
        next_step="-",
    )
    assert presented(port) == before
    files.make()
    os.kill(service.pid, signal.SIGHUP)
    wait_until(
        lambda: presented(port) == files.certificate.read_text().strip(),
        deadline=20,
        what="the new certificate",
        next_step="-",
    )


@pytest.mark.parametrize("wrong", ["absent", "not PEM", "another's", "with a passphrase"])
def test_a_key_that_cannot_be_used_is_named_before_anything_is_done(
    config: Path, files: Files, tmp_path: Path, wrong: str
) -> None:
    match wrong:
        case "absent":
            files.key.unlink()
        case "not PEM":
            files.key.write_text("secret")
        case "another's":
            kept = files.certificate.read_bytes()
            files.make()
            files.certificate.write_bytes(kept)
        case _:
            key = ec.generate_private_key(ec.SECP256R1())
            pem = serialization.Encoding.PEM
            sealed = serialization.BestAvailableEncryption(b"passphrase")
            files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, sealed))
    log = tmp_path / "log"

    assert serve(config, log).wait(60) == 1

    said = log.read_text()
    assert str(files.key) in said
    assert "api.certificate_key" in said
    assert "Traceback" not in said
    assert not (tmp_path / "state").exists()

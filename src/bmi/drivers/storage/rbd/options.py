"""Options of the driver `rbd`."""

from pathlib import Path

from pydantic import ByteSize, Field, field_validator

from bmi.drivers import Options

_NAME = r"^[A-Za-z0-9_.-]+$"


class RbdOptions(Options):
    """Which cluster, which pool, as whom, and how long to wait for an answer."""

    pool: str = Field(pattern=_NAME)
    """Pool of the images. One installation of BMI has it, or its namespace, for itself."""
    namespace: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    """Namespace in the pool; none if empty. tgt cannot open images in a namespace, so none can be exported."""
    user: str = Field("bmi", pattern=_NAME)
    """CephX user, without `client.`."""
    keyring: Path | None = None
    """File with the user's key; /etc/ceph/ceph.client.USER.keyring if None."""
    conf: Path = Path("/etc/ceph/ceph.conf")
    """The cluster's configuration, which says where the monitors are."""
    connect_timeout: int = Field(5, ge=1, le=300)
    """Seconds in which the cluster has to answer when BMI or a target connects."""
    timeout: int = Field(30, ge=1, le=600)
    """Seconds in which it has to answer each single request of BMI."""
    io_timeout: int = Field(0, ge=0)
    """Seconds after which a node's read or write fails when Ceph does not answer; 0: it waits.

    A disk that waits goes on when Ceph is back; one that fails takes its file system down.
    """
    reserve: ByteSize = ByteSize(0)
    """Bytes of the pool that stay free."""

    @field_validator("conf", "keyring")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @property
    def key_file(self) -> Path:
        """The file with the user's key."""
        return self.keyring or Path(f"/etc/ceph/ceph.client.{self.user}.keyring")

    @property
    def place(self) -> str:
        """The pool, and the namespace if there is one, for people and for targets."""
        return f"{self.pool}/{self.namespace}" if self.namespace else self.pool

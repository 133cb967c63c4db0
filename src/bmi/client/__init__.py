"""BMI for programs: a typed client of its HTTP API.

    with Client("http://127.0.0.1:6230", token, project="blue") as bmi:
        started = bmi.nodes.provision("n1", Provision(image="debian-13", network="lan"))
        bmi.operations.wait(started.id)

The requests' and answers' types are in `bmi.api`. Imports nothing of the service.
"""

from bmi.client.client import Client
from bmi.client.errors import (
    AnswerInvalid,
    ApiError,
    ClientError,
    ConnectionLost,
    NameInvalid,
    OperationFailed,
    ProfileInvalid,
    Unreachable,
    WaitTimedOut,
    title,
)
from bmi.client.exports import DigestMismatch

__all__ = [
    "AnswerInvalid",
    "ApiError",
    "Client",
    "ClientError",
    "ConnectionLost",
    "DigestMismatch",
    "NameInvalid",
    "OperationFailed",
    "ProfileInvalid",
    "Unreachable",
    "WaitTimedOut",
    "title",
]

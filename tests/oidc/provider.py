# /// script
# requires-python = ">=3.11"
# dependencies = ["canaille[oidc,sqlite]>=0.3.6"]
# ///
"""A real OpenID Connect provider, Canaille, in a process of its own.

`uv run --script provider.py PORT FOLDER REDIRECT_URI` runs it. It has people with passwords, groups, and BMI as a
client; all of it is forgotten when it ends.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

CLIENT = "bmi-client"
PEOPLE = {"ann": ("operators", "red-team"), "bob": ("red-team",), "eve": ()}
"""People, and the groups that they are in."""


class Quiet(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(port: int, folder: Path, redirect_uri: str) -> None:
    """Serve until the process ends.

    Args:
        port: Port of the loopback interface.
        folder: Has files `password`, of all people, and `secret`, of the client.
        redirect_uri: Where it sends browsers back to.
    """
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # on the loopback interface
    from canaille import create_app
    from canaille.app import models
    from canaille.backends import Backend
    from joserfc.jwk import JWKRegistry

    key = JWKRegistry.generate_key("RSA", 2048)
    key.ensure_kid()
    app = create_app(
        config={
            "SECRET_KEY": os.urandom(16).hex(),
            "PREFERRED_URL_SCHEME": "http",
            "SERVER_NAME": f"localhost:{port}",
            # Its store in memory finds codes that it does not have.
            "CANAILLE": {"DATABASE": "sql", "JAVASCRIPT": False},
            "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{folder / 'provider.db'}"},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
        },
        env_file=None,
    )
    password, secret = ((folder / name).read_text() for name in ("password", "secret"))
    with app.app_context():
        backend = Backend.instance
        users = {
            name: models.User(
                user_name=name,
                display_name=name,
                family_name=name.title(),
                emails=[f"{name}@example.org"],
                password=password,
            )
            for name in PEOPLE
        }
        for user in users.values():
            backend.save(user)
        for group in sorted({group for groups in PEOPLE.values() for group in groups}):
            members = [users[name] for name, groups in PEOPLE.items() if group in groups]
            backend.save(models.Group(display_name=group, members=members))
        client = models.Client(
            client_id=CLIENT,
            client_secret=secret,
            client_id_issued_at=datetime.now(UTC),
            client_name="BMI",
            redirect_uris=[redirect_uri],
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "profile", "email", "groups"],
            token_endpoint_auth_method="client_secret_basic",
        )
        backend.save(client)
        backend.update(client, audience=[client])
        backend.save(client)
    with make_server("127.0.0.1", port, app, handler_class=Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

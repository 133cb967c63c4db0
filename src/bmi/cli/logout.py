"""`bmi logout`: ends the session, and forgets its secret."""

from dataclasses import replace

from bmi.cli import apps, output
from bmi.cli.session import connect
from bmi.client import ApiError, profile

app = apps.single()


@app.command()
def logout() -> None:
    """End your session, and forget its secret. A token is forgotten, and stays good: see `bmi token revoke`."""
    with connect() as bmi:
        try:
            bmi.log_out()
            ended = "logged out"
        except ApiError as error:
            if error.code not in ("bad-request", "not-authenticated"):
                raise
            ended = f"nothing to end at the service ({error.message})"
    file = profile.path()
    mine = profile.load({"BMI_CLIENT_CONFIG": str(file)})
    if mine.token is not None and mine.token == profile.load().token:  # else the environment's was used
        profile.save(replace(mine, token=None), file)
        ended += f"; the secret is forgotten in {file}"
    output.line(ended)

"""`bmi version`: which releases speak with each other."""

import json as encoder

from bmi import __version__
from bmi.cli import apps, options, output
from bmi.client import Client, profile

app = apps.single()


@app.command()
def version(json: options.Json = False) -> None:
    """Show the version of this command and, if one is known, of the service."""
    url = profile.load().url
    if url is None:
        _tell(None, None, json=json)
        return
    if not json:
        output.line(f"client   {__version__}")
    with Client(url) as bmi:
        service = bmi.version().version
    _tell(url, service, json=json)


def _tell(url: str | None, service: str | None, *, json: bool) -> None:
    if json:
        output.line(encoder.dumps({"client": __version__, "service": service, "url": url}, indent=2))
    elif service is None:
        output.line(f"client   {__version__}")
    else:
        output.line(f"service  {service} at {url}")

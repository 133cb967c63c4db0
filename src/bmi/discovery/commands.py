"""`bmi inspector`: the small system that machines boot to be discovered, on this gateway."""

from pathlib import Path
from typing import Annotated

import typer

from bmi.cli import apps
from bmi.discovery import inspector
from bmi.images.debian.recipe import Kernel
from bmi.settings import load_settings

app = apps.noun("The small system that machines boot to be discovered.")


@app.command()
def build(
    kernel: Annotated[
        Kernel, typer.Option(help="generic has the drivers of real servers, cloud those of virtual machines.")
    ] = Kernel.GENERIC,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; $BMI_CONFIG or /etc/bmi/bmi.toml if absent.")
    ] = None,
) -> None:
    """Build it from Debian's packages, on each gateway; machines get the new one from then on.

    \b
    Example:
      bmi inspector build
    """
    settings = load_settings(config)
    told = ""

    def tell(what: str, _done: float) -> None:
        nonlocal told
        if what != told:
            typer.echo(what, err=True)
        told = what

    inspector.build(settings.inspector, kernel=kernel, progress=tell, helper=settings.helper.socket)
    sizes = [
        (settings.inspector / name).stat().st_size >> 20 for name in (inspector.KERNEL, inspector.INITRAMFS)
    ]
    typer.echo(f"{settings.inspector}: kernel {sizes[0]} MiB, initramfs {sizes[1]} MiB")

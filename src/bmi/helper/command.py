"""`bmi helper`."""

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from bmi.errors import SettingsInvalid
from bmi.helper.service import HelperService, listen, user_id
from bmi.settings import load_settings

log = logging.getLogger(__name__)


def helper(
    config: Annotated[
        Path | None, typer.Option(help="Settings file; $BMI_CONFIG or /etc/bmi/bmi.toml if absent.")
    ] = None,
) -> None:
    """Do, as root, what takes root's rights, for the other processes on this host, which need none then.

    It is asked at the socket that `helper.socket` names, by the user that `helper.user` names and by nobody else.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(config)
    if settings.helper.socket is None:
        raise SettingsInvalid(
            "setting helper.socket is absent",
            next_step="say where the helper is to be asked, as /run/bmi-helper/socket",
        )
    service = HelperService(settings)
    listener = listen(settings.helper.socket, user_id(settings.helper.user))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.end())
    log.info("ready: helper")
    with listener:
        service.run(listener)
    service.close()

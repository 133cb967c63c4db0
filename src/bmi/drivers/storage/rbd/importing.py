"""How a file becomes an image."""

import os
from pathlib import Path

from bmi.drivers.storage import Progress, Volume
from bmi.drivers.storage.rbd import making, stream
from bmi.drivers.storage.rbd.names import FROZEN, MARK
from bmi.drivers.storage.rbd.session import Session
from bmi.errors import ImageInvalid


def import_file(
    session: Session, image: Volume, file: int, source: Path, progress: Progress, *, mark: str
) -> None:
    """Make an image of an open file, unless it is there already.

    Args:
        session: The session.
        image: The image to make.
        file: Descriptor of the file.
        source: What people know the file by.
        progress: Called after each piece; what it raises ends the import.
        mark: The value of the image's mark.

    Raises:
        ImageInvalid: The file changed meanwhile.
    """
    size = os.fstat(file).st_size
    if not making.create(session, image, size):
        return
    with making.or_nothing(session, image), session.image(str(image), read_only=False) as opened:
        opened.metadata_set(MARK, mark)
        try:
            stream.fill(opened, file, lambda offset: progress(offset, size))
        except EOFError as error:
            raise ImageInvalid(
                f"{source} changed while it was read: it {error}",
                next_step="import it when nobody writes to it",
            ) from error
        progress(size, size)
        opened.create_snap(FROZEN)

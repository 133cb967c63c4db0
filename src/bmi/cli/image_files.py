"""`bmi image import`, `export` and `uploads`: files that become images, and the other way round."""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from bmi.api.intake import Format, ImageExport, ImageImport, Upload, UploadCreate
from bmi.cli import apps, complete, options, output, transfer
from bmi.cli.failures import Failure
from bmi.cli.progress import done, finish
from bmi.cli.session import connect

if TYPE_CHECKING:
    from bmi.client import Client

_STREAM = "-"
_NO_UPLOAD = UUID(int=0)

app = apps.single()

Image = Annotated[str, typer.Argument(help="Name or id.", metavar="IMAGE", autocompletion=complete.images)]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="File, http or https URL, or - for what comes in.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the image.")],
    format: Annotated[
        Format | None, typer.Option(help="Recognised by the file's header if left out.", show_default=False)
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Digest that the file must have, as it is.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also if there is an image with this content already.")
    ] = False,
    resume: Annotated[
        UUID | None,
        typer.Option(metavar="UPLOAD", help="Go on with this upload; a file's own is found without."),
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make an image of a file: raw, qcow2, vmdk, vhdx or vdi, as it is or in gz, xz or zst.

    An upload that broke off goes on where it was when the same command is given again.

    \b
    Examples:
      bmi image import debian-12.qcow2 --name debian-12
      bmi image import https://HOST/disk.raw.xz --name web --digest sha256:...
      ssh old dd if=/dev/sda | bmi image import - --name rescued --format raw
    """

    def request(**source: UUID | str) -> ImageImport:
        return ImageImport.model_validate(
            {"name": name, "format": format, "digest": digest, "again": again, **source}
        )

    with connect(project) as bmi:
        if source.startswith(("http://", "https://")):
            asked = request(url=source)
        else:
            wanted = request(upload=_NO_UPLOAD).digest  # what cannot be is said before a file is sent
            sent, found = _send(bmi, source, wanted, resume)
            asked = request(upload=sent.id, digest=found)
        finish(bmi, bmi.images.import_(asked), wait=wait, json=json)


@app.command()
def export(
    image: Image,
    destination: Annotated[str, typer.Argument(help="File, or - for what goes out.", metavar="FILE")],
    format: Annotated[Format, typer.Option(help="raw or qcow2.")] = Format.RAW,
    compress: Annotated[bool, typer.Option("--compress", help="qcow2 only: smaller.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    project: options.ProjectName = None,
) -> None:
    """Write an image into a file on this host, checked by its digest; what is zero becomes holes.

    \b
    Examples:
      bmi image export web web.qcow2 --format qcow2 --compress
      bmi image export web - | zstd > web.raw.zst
    """
    if format not in (Format.RAW, Format.QCOW2):
        raise Failure(f"{format} cannot be written", next_step="use raw or qcow2", status=2)
    request = ImageExport(format=format, compress=compress)
    with connect(project) as bmi:
        if destination == _STREAM:
            made = done(bmi, bmi.exports.start(image, request), quiet=True)
            with transfer.bar("fetch") as told:
                bmi.exports.fetch(made.id, _write_out, told)
        else:
            with transfer.Destination(Path(destination), force=force) as file:
                made = done(bmi, bmi.exports.start(image, request), quiet=not output.terminal())
                with transfer.bar("fetch") as told:
                    bmi.exports.fetch(made.id, file.write, told)
                file.appear()
        bmi.exports.remove(made.id)


@app.command()
def uploads(
    remove: Annotated[
        UUID | None, typer.Option(metavar="UPLOAD", help="Remove this one instead of listing them.")
    ] = None,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """List the uploads that are no images yet; they are removed a day after the last byte came."""
    with connect(project) as bmi:
        if remove is not None:
            bmi.uploads.delete(remove)
            return
        found = list(bmi.uploads.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("ID", "RECEIVED", "SIZE", "PROJECT", "BY", "LAST"),
        [
            (
                upload.id,
                output.size(upload.received),
                upload.size and output.size(upload.size),
                upload.project,
                upload.asked_by,
                upload.touched_at,
            )
            for upload in found
        ],
        empty="there are no uploads",
    )


def _send(bmi: "Client", source: str, wanted: str | None, resume: UUID | None) -> tuple[Upload, str]:
    """Send a file, or what comes in, and return the upload and its digest."""
    try:
        if source == _STREAM:
            if resume:
                raise Failure("what comes in cannot be sent again from the middle", next_step="give a file")
            return _send_stream(bmi, wanted)
        return _send_file(bmi, Path(source), wanted, resume)
    except KeyboardInterrupt:
        raise Failure(
            "stopped sending; what has arrived is kept for a day",
            next_step="go on by giving the same command again",
            status=130,
        ) from None


def _send_file(bmi: "Client", path: Path, wanted: str | None, resume: UUID | None) -> tuple[Upload, str]:
    from bmi.client.uploads import FilePieces

    with transfer.opened(path) as file:
        found, size = transfer.digest(file), path.stat().st_size
        if wanted not in (None, found):
            raise Failure(f"{path} has the digest {found}", next_step="check the file, or the digest given")
        if size == 0:
            raise Failure(f"{path} is empty", next_step="give an image of a disk")
        upload = bmi.uploads.get(resume) if resume else _begun(bmi, found, size)
        if upload.received > size or upload.size not in (None, size):
            raise Failure(f"upload {upload.id} is of another file", next_step="leave --resume out")
        with transfer.bar("upload") as told:
            return bmi.uploads.send_all(upload, FilePieces(file), lambda done: told(done, size)), found


def _begun(bmi: "Client", digest: str, size: int) -> Upload:
    """Return the upload of this very file that was begun before, or a new one."""
    for upload in bmi.uploads.list():
        if (upload.digest, upload.size) == (digest, size):
            if upload.received:
                output.note(f"going on with upload {upload.id} at {output.size(upload.received)}")
            return upload
    return bmi.uploads.create(UploadCreate(size=size, digest=digest))


def _send_stream(bmi: "Client", wanted: str | None) -> tuple[Upload, str]:
    from bmi.client.uploads import StreamPieces

    sha = hashlib.sha256()
    upload = bmi.uploads.create(UploadCreate(digest=wanted))
    with transfer.bar("upload") as told:
        pieces = StreamPieces(sys.stdin.buffer, sha.update)
        upload = bmi.uploads.send_all(upload, pieces, lambda done: told(done, None))
    found = f"sha256:{sha.hexdigest()}"
    if upload.received == 0 or wanted not in (None, found):
        bmi.uploads.delete(upload.id)
        if upload.received == 0:
            raise Failure("nothing came in", next_step="look at the command that writes the image")
        raise Failure(f"what came in has the digest {found}", next_step="check it, or the digest given")
    return upload, found


def _write_out(data: bytes) -> None:
    sys.stdout.buffer.write(data)

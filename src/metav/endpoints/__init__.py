"""Endpoints: black-box access to a suspect, whatever it is served by.

`connect` makes one of a path or a URL, as `metav verify` does; each part can be used alone too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from urllib.parse import urlsplit

from metav.access import ACCESS, QUERY, Access
from metav.endpoints.base import Endpoint, Local, Wrapper
from metav.endpoints.ledger import Ledger, Recorded
from metav.endpoints.onnx_file import OnnxFile, weights_beside
from metav.endpoints.wrappers import Batched, Ordered, Pace, Paced, Prepared, Traffic
from metav.errors import UsageError, missing_extra
from metav.spec import Spec
from metav.storage import canonical_json

__all__ = ["Access", "Endpoint", "Local", "Wrapper", "connect"]

FROM_FILE, REQUEST = 4096, 32  # queries at a time: of a file, of a server


def connect(
    suspect: str | PathLike[str],
    spec: Spec,
    access: Access = ACCESS,
    ledger: Callable[[], Ledger] | None = None,
    traffic: Traffic | None = None,
) -> Endpoint:
    """An endpoint for a suspect.

    Parameters
    ----------
    suspect
        The path of an ONNX file, or a URL: one with /v2/models/NAME is asked by the Open Inference Protocol v2, one
        that ends with /invocations as MLflow serves, any other one as `access.request` and `access.answer` say.
    spec
        The interface of the fingerprint.
    access
        How it is asked.
    ledger
        Opens the file of answers, once the suspect was reached; without a suspect all answers come from it.
    traffic
        What it shares with suspects that are asked at the same time; the pace of its server is added.

    Raises
    ------
    UsageError
        There is no such file, the suspect is of no known kind, or the access does not fit it.
    MissingExtraError
        A package is not installed.
    """
    suspect = fspath(suspect)
    check(access, spec)
    size = size_of_batches(suspect, access)
    found = _reach(suspect, spec, access, traffic or Traffic()) if suspect else None
    endpoint: Endpoint
    if ledger is not None:
        endpoint = Recorded(found, ledger(), size)
    elif found is not None:
        endpoint = Batched(found, size)
    else:
        raise UsageError("expected a suspect or a ledger, got neither: name one of them.")
    return Ordered(endpoint, access.classes) if access.classes else endpoint


def check(access: Access, spec: Spec) -> None:
    """Refuse what does not fit any suspect: wrong headers, an order of classes or of axes for another task."""
    if access.classes and (spec.output == "images" or spec.output_shape != (len(access.classes),)):
        raise UsageError(
            f"expected --classes for a target with {len(access.classes)} classes or values, got one with "
            f"{spec.output} of shape {spec.output_shape}: give one place for each of them."
        )
    if access.channels_last and len(spec.input_shape) != 3:
        raise UsageError(
            f"expected --channels-last for a target whose inputs are images, got one with inputs of shape "
            f"{spec.input_shape}: leave it out."
        )
    if access.header:
        from metav.endpoints.http import secrets

        secrets(access.header)


def named(suspect: str) -> str:
    """A suspect's name for reports: a URL loses password and query, which may hold keys; a short hash stands for it."""
    bare = re.sub(r"^(\w+://)[^/?#]*@", r"\1", suspect).split("?")[0] if online(suspect) else suspect
    return bare if bare == suspect else f"{bare}#{hashlib.sha256(suspect.encode()).hexdigest()[:8]}"


def content_of(suspect: str, access: Access) -> str:
    """SHA-256 (hex) of all that shapes requests and answers: address or content of a file, and how it is asked."""
    path = Path(suspect)
    local = not online(suspect) and path.is_file()
    content = _content(path) if local else hashlib.sha256(suspect.encode()).digest()
    return hashlib.sha256(canonical_json(shaping(access)).encode() + content).hexdigest()


def shaping(access: Access) -> dict[str, object]:
    """What of an access shapes requests and answers; the rest is how often and how fast they are sent."""
    return {name: getattr(access, name) for name in ("request", "answer", "output", "box", "channels_last")}


def _content(path: Path) -> bytes:
    """SHA-256 of an ONNX file and of those beside it that hold its weights, where it names such."""
    model = path.read_bytes()
    whole = hashlib.sha256(model)
    for beside in weights_beside(path, model):
        if beside.is_file():
            with beside.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.digest()


def online(suspect: str) -> bool:
    """Whether a suspect is a URL."""
    return suspect.lower().startswith(("http://", "https://"))


def size_of_batches(suspect: str, access: Access) -> int:
    """How many queries a suspect is asked at a time: each answer that was paid for is kept before the next request."""
    if f'"{QUERY}"' in access.request:
        return 1
    return access.batch or (REQUEST if online(suspect) else FROM_FILE)


def _reach(suspect: str, spec: Spec, access: Access, traffic: Traffic) -> Endpoint:
    """The suspect, asked as often, as fast and with such inputs as it wants."""
    if not online(suspect) and "://" in suspect:
        raise UsageError(f"expected a path, or a URL with http or https, got {suspect!r}: check the address.")
    found: Endpoint
    if online(suspect):
        adapter = _online(suspect, access)
        from metav.endpoints.retried import Retried

        if access.rate:
            pace = traffic.paces.setdefault(urlsplit(suspect).netloc, Pace(access.rate))
            adapter = Paced(adapter, pace, traffic.halt)
        found = Retried(adapter, access.attempts, halt=traffic.halt)
    else:
        found = OnnxFile(Path(suspect), access.output)
    if access.box is not None or access.channels_last:
        found = Prepared(found, spec, access.box, last=access.channels_last)
    return found


def _online(url: str, access: Access) -> Endpoint:
    try:
        from metav.endpoints.http import Server, secrets, split
        from metav.endpoints.inference_v2 import InferenceV2
        from metav.endpoints.json_api import MLFLOW, JsonApi
    except ImportError as error:
        raise missing_extra(f"{error.name} for a suspect behind a URL", "none", "http") from error
    server = Server(url, headers=secrets(access.header), timeout=access.timeout)
    path = split(url).path.rstrip("/")
    if access.request or access.answer or path.endswith("/invocations"):
        if access.output:
            raise UsageError(
                f"expected --output beside a URL that ends with /v2/models/NAME, got it with {server.shown!r}: say "
                "with --answer where the answers are."
            )
        return JsonApi(server, access.request or MLFLOW[0], access.answer or MLFLOW[1])
    if re.search(r"/v2/models/[^/]+(/versions/[^/]+)?$", path):
        return InferenceV2(server, access.output)
    raise UsageError(
        f"expected a URL that ends with /v2/models/NAME or /invocations, got {server.shown!r}: describe another API "
        "with --request and --answer."
    )

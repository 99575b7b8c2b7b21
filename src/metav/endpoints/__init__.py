"""Endpoints: black-box access to a suspect, whatever it is served by.

`connect` makes one of a path or a URL, as `metav verify` does; each part can be used alone too.
"""

from __future__ import annotations

import re
from pathlib import Path

from metav.access import Access
from metav.endpoints.base import Endpoint, Local, Wrapper
from metav.errors import MissingExtraError, UsageError
from metav.spec import Spec

__all__ = ["Access", "Endpoint", "Local", "Wrapper", "connect"]

WHOLE, REQUEST = 4096, 32  # queries at a time: of a file, of a server


def connect(suspect: str, spec: Spec, access: Access | None = None) -> Endpoint:
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

    Raises
    ------
    UsageError
        There is no such file, the suspect is of no known kind, or the access does not fit.
    MissingExtraError
        A package is not installed.
    """
    access = access or Access()
    if access.classes and (spec.output != "probabilities" or len(access.classes) != spec.output_shape[0]):
        raise UsageError(
            f"expected --classes for a target that tells {len(access.classes)} classes apart, got one with "
            f"{spec.output} of shape {spec.output_shape}: give one place for each of its classes."
        )
    online = re.match(r"^https?://", suspect) is not None
    if not online and "://" in suspect:
        raise UsageError(f"expected a path, or a URL with http or https, got {suspect!r}: check the address.")
    from metav.endpoints.wrappers import Batched, Ordered, Paced, Prepared, Retried

    found: Endpoint
    if online:
        found = Retried(_online(suspect, access), access.attempts)
    else:
        from metav.endpoints.onnx_file import OnnxFile

        found = OnnxFile(Path(suspect), access.output)
    if access.rate:
        found = Paced(found, access.rate)
    if access.box is not None or access.channels_last:
        low, high = access.box or (spec.low, spec.high)
        found = Prepared(found, (spec.low, spec.high, low, high), last=access.channels_last)
    if access.classes:
        found = Ordered(found, access.classes)
    return Batched(found, size_of_batches(suspect, access))


def size_of_batches(suspect: str, access: Access) -> int:
    """How many queries a suspect is asked at a time."""
    return access.batch or (REQUEST if suspect.startswith(("http://", "https://")) else WHOLE)


def _online(url: str, access: Access) -> Endpoint:
    try:
        from metav.endpoints.http import Server, secrets
        from metav.endpoints.inference_v2 import InferenceV2
        from metav.endpoints.json_api import MLFLOW, JsonApi
    except ImportError as error:
        raise MissingExtraError(
            f"expected {error.name} for a suspect behind a URL, got none: pip install 'metav[http]'."
        ) from error
    server = Server(url, headers=secrets(list(access.header)), timeout=access.timeout)
    path = url.split("?")[0].rstrip("/")
    if access.request or access.answer or path.endswith("/invocations"):
        return JsonApi(server, access.request or MLFLOW[0], access.answer or MLFLOW[1])
    if re.search(r"/v2/models/[^/]+(/versions/[^/]+)?$", path):
        return InferenceV2(server, access.output)
    raise UsageError(
        f"expected a URL that ends with /v2/models/NAME or /invocations, got {server.shown!r}: describe another API "
        "with --request and --answer."
    )

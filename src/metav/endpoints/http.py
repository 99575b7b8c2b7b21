"""JSON over HTTP, and all the ways in which it goes wrong, each as one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Timer
from typing import Any
from urllib.parse import SplitResult, unquote_plus, urlsplit

import httpx2 as httpx
import orjson

from metav.errors import EndpointError, UsageError

PASSING = {408, 425, 429, 500, 502, 503, 504}
SHOWN = 160  # characters of what a server wrote that an error repeats
KEY = 8  # characters, from which on what stands in a URL's query is taken for a secret
SHORT = 4  # characters; a header's value with fewer, such as a version, is none
JSON = {"content-type": "application/json", "accept": "application/json"}
OWN = {"content-length", "transfer-encoding", "connection"}  # headers that say how a request is sent
NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # of a header: RFC 9110, section 5.6.2


class Server:
    """A server that is sent JSON and answers JSON.

    Parameters
    ----------
    url
        Where requests go, http or https.
    headers
        Values of further headers by their names. They are secrets: no error, ledger or report shows them.
    timeout
        Seconds that a request may take, from the connection to the end of the answer.
    largest
        Bytes of an answer beyond which it is not read on.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0, largest: int = 2**26
    ) -> None:
        self.url, self.largest, self.timeout = url, largest, timeout
        parts = split(url)
        asked = [parts.query, *(pair.partition("=")[2] for pair in parts.query.split("&"))]
        asked += [unquote_plus(each) for each in asked]
        self._secrets = [value for value in asked if len(value) >= KEY]
        for value in (headers or {}).values():  # of "Bearer KEY" or "token=KEY" the key alone, too
            keys = (value, value.rsplit(" ", 1)[-1], value.rsplit("=", 1)[-1].strip('"'))
            self._secrets += [key for key in keys if len(key) >= SHORT]
        self._secrets += [json.dumps(each)[1:-1] for each in self._secrets]  # as JSON has them
        self._secrets.sort(key=len, reverse=True)  # a long one may begin with a short one
        if parts.password or parts.username:
            raise UsageError("expected a URL without a password, got one with it: use --header NAME=VARIABLE.")
        self.shown = parts._replace(query="", fragment="").geturl()  # queries of URLs hold keys now and then
        self._headers = httpx.Headers(JSON)
        self._headers.update(headers)
        self._client = self._opened()

    def _opened(self) -> httpx.Client:
        try:
            return httpx.Client(headers=self._headers, timeout=self.timeout, follow_redirects=False)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UsageError(
                f"expected a proxy over http or https in the environment, got another ({error}): unset ALL_PROXY, "
                "HTTP_PROXY and HTTPS_PROXY, or set them to such a one."
            ) from error
        except OSError as error:
            raise UsageError(
                f"expected certificates that can be read, got {error}: correct or unset SSL_CERT_FILE and SSL_CERT_DIR."
            ) from error

    def post(self, content: Any, url: str | None = None) -> Any:
        """Send `content` as JSON; return what the JSON of the answer says."""
        return self._ask("POST", url or self.url, orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))

    def get(self, url: str | None = None) -> Any:
        """Return what the JSON at an address says."""
        return self._ask("GET", url or self.url, b"")

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _ask(self, method: str, url: str, body: bytes) -> Any:
        if self._client.is_closed:
            self._client = self._opened()
        watch = Timer(self.timeout, self._client.close)  # httpx's own limit is for silence alone
        watch.daemon = True
        watch.start()
        try:
            with self._client.stream(method, url, content=body) as answer:
                content = self._read(answer)
        except httpx.LocalProtocolError as error:
            raise self._error("a request that cannot be sent", "check the URL and the headers") from error
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
            if isinstance(error, httpx.TimeoutException) or self._client.is_closed:
                raise self._error(
                    f"no whole one within {self.timeout:g} s", "try later, or wait longer with --timeout", passing=True
                ) from error
            if "certificate" in str(error).lower():
                raise self._error(f"a certificate that is not trusted ({error})", "check the address") from error
            raise self._error(
                f"a broken connection ({error or type(error).__name__})", "check that it is running", passing=True
            ) from error
        except (httpx.InvalidURL, UnicodeError) as error:  # the latter of the name of a host
            raise UsageError(f"expected the URL of an inference server, got {self.shown!r}: {error}.") from error
        finally:
            watch.cancel()
        self._check(answer, content)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
        try:
            return json.loads(content)  # with NaN and Infinity, which Python writes and JSON does not know
        except (ValueError, RecursionError) as error:
            raise self._error(
                f"something else ({self.shortened(content)})",
                "check that the URL is that of the model and not of a page",
            ) from error

    def _read(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > self.largest:
                raise self._error(f"more than {self.largest / 2**20:g} MiB", "ask for fewer at a time with --batch")
        return bytes(content)

    def _check(self, answer: httpx.Response, content: bytes) -> None:
        """Refuse all but a plain success."""
        code = answer.status_code
        if answer.is_success:
            return
        if 300 <= code < 400:
            where = re.split("[?#]", answer.headers.get("location", ""))[0]
            raise self._error(
                f"a redirect to {self.shortened(where.encode()) if where else 'nowhere'}",
                "give the final URL, and log in with --header NAME=VARIABLE if that is a login page",
            )
        fewer = "ask for fewer at a time with --batch"
        step = {
            401: "log in with --header NAME=VARIABLE",
            403: "log in with --header NAME=VARIABLE",
            404: "check the URL and the model's name",
            413: fewer,
            429: "ask more slowly with --rate",
        }.get(code, f"{'read what it says' if code < 500 else 'try later'}, or {fewer}")
        text = self.shortened(content)
        after = _seconds(answer.headers.get("retry-after"))
        wish = "" if after is None else f", to be asked again after {after:g} s"
        raise self._error(f"status {code} ({text}){wish}", step, passing=code in PASSING, after=after)

    def shortened(self, content: bytes) -> str:
        """The start of what a server wrote, on one line, without secrets and what moves a terminal's cursor."""
        words = content[: 16 * SHOWN].decode("utf-8", "replace").split()
        text = "".join(letter for letter in " ".join(words) if letter.isprintable())
        return self._clean(text)[:SHOWN] or "empty"

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def misunderstood(self, wanted: str, found: Any, next_step: str) -> EndpointError:
        """The error for JSON that is not what was expected."""
        try:
            text = json.dumps(found, default=str)
        except RecursionError:
            text = "lists in lists, too deep to show"
        return self._error(self.shortened(text.encode()), next_step, wanted=wanted)

    def _error(
        self,
        got: str,
        next_step: str,
        *,
        wanted: str = "JSON answers",
        passing: bool = False,
        after: float | None = None,
    ) -> EndpointError:
        text = self._clean(f"expected {wanted} from {self.shown}, got {got}: {next_step}.")
        return EndpointError(text, passing=passing, after=after)


def split(url: str) -> SplitResult:
    """The parts of a URL.

    Raises
    ------
    UsageError
        It is none.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"expected the URL of an inference server, got another text ({error}): check it.") from error
    if not parts.hostname:
        raise UsageError("expected the URL of an inference server, got one without a host: write https://host/path.")
    return parts


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, a number or a date; None where it asks for no wait."""
    if retry_after is None:
        return None
    seconds = 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            date = parsedate_to_datetime(retry_after)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = (date - datetime.now(UTC)).total_seconds()
    return seconds if seconds > 0 else None


def secrets(headers: Sequence[str]) -> dict[str, str]:
    """Values of headers, given as `NAME=VARIABLE`, from environment variables.

    Raises
    ------
    UsageError
        There is no = in one, or no such variable; or it is one that HTTP sets.
    """
    found = {}
    for header in headers:
        name, equal, variable = header.partition("=")
        if not equal or not name or not variable.isidentifier():
            raise UsageError(
                "expected --header NAME=VARIABLE, with the environment variable that holds the value, got another "
                "form: export the value and give the variable's name."
            )
        if NAME.fullmatch(name) is None:
            raise UsageError(f"expected the name of a header in ASCII and without spaces, got {name!r}: correct it.")
        if name.lower() in OWN:
            raise UsageError(f"expected no header {name!r}, which each request has already, got it: leave it out.")
        if variable not in os.environ:
            raise UsageError(
                f"expected the value of header {name!r} in the environment variable {variable}, got none: export it."
            )
        found[name] = os.environ[variable].strip()
        if not (found[name].isascii() and found[name].isprintable()):
            raise UsageError(f"expected printable ASCII for header {name!r} in {variable}, got more: export it again.")
    return found

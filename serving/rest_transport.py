"""Requests to TF Serving's REST API, for `client`."""

import base64
import http.client
import json
import urllib.parse

import requests

from serving import status_codes
from trainer.export import signature


class RestTransport:
    """One model behind one HTTP address, over kept-alive connections."""

    def __init__(
        self,
        address: str,
        model_name: str,
        version: int | None,
        token: str | None,
        ca_file: str | None,
    ):
        """Does not connect yet. The arguments are those of `client.Client`."""
        name = urllib.parse.quote(model_name, safe="")
        self._url = f"{address}/v1/models/{name}"
        if version is not None:
            self._url += f"/versions/{version}"
        self._token = token
        self._session = requests.Session()
        # Else requests sends what ~/.netrc has, in place of the token too.
        self._session.auth = self._authorize
        # With each request: the session's own is less than what
        # REQUESTS_CA_BUNDLE names.
        self._verify = ca_file or None

    def predict(
        self, signature_name: str, images: list[bytes], timeout_s: float
    ) -> dict:
        """Returns a list per output of a signature that takes images."""
        instances = [
            {signature.IMAGE_BYTES: {"b64": base64.b64encode(image).decode()}}
            for image in images
        ]
        body = {"signature_name": signature_name, "instances": instances}
        rows = self._request("POST", ":predict", timeout_s, body)["predictions"]
        # A model with one output answers with bare values.
        if not all(isinstance(row, dict) for row in rows):
            return {}
        return {name: [_decode(row[name]) for row in rows] for name in rows[0]}

    def status(self, timeout_s: float) -> list[tuple[int, str, str]]:
        """Returns version, state and error of each version."""
        answer = self._request("GET", "", timeout_s)
        return [
            (
                int(status["version"]),
                status["state"],
                status.get("status", {}).get("error_message", ""),
            )
            for status in answer["model_version_status"]
        ]

    def metadata(self, timeout_s: float) -> dict:
        """Returns the metadata document."""
        return self._request("GET", "/metadata", timeout_s)

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _request(
        self, method: str, suffix: str, timeout_s: float, body=None
    ) -> dict:
        try:
            response = self._session.request(
                method,
                self._url + suffix,
                json=body,
                timeout=timeout_s,
                verify=self._verify,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _to_status(error) from error
        if response.is_redirect:
            raise status_codes.StatusError(
                "FAILED_PRECONDITION",
                f"it redirects to {response.headers['location']}; the target "
                "must be the address that answers",
            )
        if response.ok:
            return _parse(response)
        code = status_codes.CODE_OF_HTTP_STATUS.get(
            response.status_code, "UNKNOWN"
        )
        raise status_codes.StatusError(code, _error_message(response))

    def _authorize(
        self, request: requests.PreparedRequest
    ) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _decode(value):
    """Returns the bytes of a `{"b64": …}` object, other values as they are."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value


def _parse(response: requests.Response) -> dict:
    try:
        return json.loads(response.content)
    # ValueError: not JSON, or text that is not UTF-8.
    except ValueError as error:
        raise status_codes.StatusError(
            "UNKNOWN", "the answer is not JSON; is this TF Serving's REST port?"
        ) from error


def _error_message(response: requests.Response) -> str:
    try:
        return str(json.loads(response.content)["error"])
    # A proxy or another server answers with a page of its own.
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} {response.reason}"


def _to_status(error: requests.RequestException) -> status_codes.StatusError:
    if isinstance(error, requests.Timeout):
        return status_codes.StatusError(
            "DEADLINE_EXCEEDED", "no answer in time"
        )
    if not isinstance(error, requests.ConnectionError):
        return status_codes.StatusError("UNKNOWN", str(error))
    # The innermost cause; the outer ones repeat the address.
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    reason = getattr(cause, "strerror", None) or str(cause)
    if isinstance(cause, http.client.HTTPException):
        reason = "it does not speak HTTP; is this the gRPC port?"
    # Another attempt would end in the same way.
    if isinstance(error, requests.exceptions.SSLError):
        reason = f"no trust in its certificate: {reason}"
        return status_codes.StatusError("UNKNOWN", reason)
    return status_codes.StatusError("UNAVAILABLE", reason)

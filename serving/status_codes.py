"""Error codes that the servers and the client share.

TF Serving reports the same canonical codes over gRPC, by name, and over REST,
as HTTP statuses (`model_servers/http_server.cc`). No TensorFlow import.
"""

# In the order of the canonical numbering, OK = 0.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}

# The way back is not unique: the first code of the canonical numbering that a
# client would act on. A proxy's 408, 502 and 413 mean the same to a client.
CODE_OF_HTTP_STATUS = {
    **{status: code for code, status in reversed(HTTP_STATUS.items())},
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
}


class StatusError(Exception):
    """A request that cannot be answered, as one of the canonical codes.

    Attributes:
        code: a key of `HTTP_STATUS`.
        message: what a client reads.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def not_found(message: str) -> StatusError:
    """Returns the error of a request for what is not served."""
    return StatusError("NOT_FOUND", message)


def invalid_argument(message: str) -> StatusError:
    """Returns the error of a request that no retry will help."""
    return StatusError("INVALID_ARGUMENT", message)

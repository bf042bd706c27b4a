"""The one tree of errors. Each carries a code for programs and a message that says what to do."""

from __future__ import annotations


class StreamgenError(Exception):
    """Root of all errors that a user can cause or has to know about.

    `code` is stable and meant for programs; `str(error)` is one line meant for people.
    """

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(StreamgenError):
    """The service was started with settings that cannot work."""

    code = "bad_config"


class ParamsError(StreamgenError):
    """A session parameter is unknown, has the wrong type or lies out of range; `field` names it."""

    code = "bad_params"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class OfferError(StreamgenError):
    """An SDP offer that cannot be answered."""

    code = "bad_offer"


class IceRestartError(StreamgenError):
    """A connection could not move to new network addresses; it stays on those it has."""

    code = "ice_restart_failed"


class UnauthorizedError(StreamgenError):
    """The request carries no valid token."""

    code = "unauthorized"


class SessionNotFoundError(StreamgenError):
    """No session has this id (it may have ended)."""

    code = "no_such_session"


class BusyError(StreamgenError):
    """No room for another session now; `retry_after_s` says when to ask again."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotLiveError(BusyError):
    """The session to be watched has no picture now; `retry_after_s` says when to ask again."""

    code = "not_live"


class NameTakenError(BusyError):
    """Another session is published under this name."""

    code = "name_taken"


class JobNotFoundError(StreamgenError):
    """No job has this id (it may have been deleted, or its time is over)."""

    code = "no_such_job"


class NotDoneError(StreamgenError):
    """The job has no result: it is not done yet, or never will be."""

    code = "not_done"


class UploadError(StreamgenError):
    """A file that a client sends is too large, or comes too slowly."""

    code = "bad_upload"


class TooLargeError(UploadError):
    """It is larger than the service takes."""

    code = "too_large"


class TooSlowError(UploadError):
    """It comes more slowly than the service waits for."""

    code = "too_slow"


class NodeNotFoundError(StreamgenError):
    """No node of the fleet has this name."""

    code = "no_such_node"


class FleetError(StreamgenError):
    """The fleet cannot be started, or can no longer run."""

    code = "fleet_failed"


class EngineError(StreamgenError):
    """The engine failed at a piece of work; the work is lost, the engine goes on."""

    code = "engine_failed"


class DeviceLostError(EngineError):
    """One of several devices that work together is gone, and with it the streams on all of them."""

    code = "device_lost"


class WorkerDiedError(EngineError):
    """The worker process ended (or hung and was ended); the supervisor starts another."""

    code = "worker_died"


class WeightsError(StreamgenError):
    """Weights are missing, or do not fit the model; the message names the keys."""

    code = "bad_weights"


class DownloadError(StreamgenError):
    """Weights could not be downloaded; `offline` says that there was no answer at all."""

    code = "download_failed"

    def __init__(self, message: str, *, offline: bool = False) -> None:
        super().__init__(message)
        self.offline = offline


class PresetError(StreamgenError):
    """No such preset, or it cannot run on this machine."""

    code = "bad_preset"


class MediaFileError(StreamgenError):
    """A file that cannot be read or written as video."""

    code = "bad_media"


class ConnectError(StreamgenError):
    """The client could not reach the service, or the media connection did not come up."""

    code = "connect_failed"


class ServiceError(StreamgenError):
    """The service refused a client's request, or ended its session.

    `status` is the HTTP status (None where the service said it on the control channel), `reason` its own error code.
    """

    code = "service_error"

    def __init__(
        self, message: str, status: int | None = None, retry_after_s: float | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.reason = reason

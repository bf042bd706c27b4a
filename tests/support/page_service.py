"""The echo service with the live page in front of it, for what a real scheduler says only under load.

Also a program: `python -m tests.support.page_service` prints `ready: URL`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from streamgen.core import Params
from tests.support.echo_service import Behaviour, EchoService

WEB = Path(__file__).parents[2] / "web"

PRESET: dict[str, Any] = {
    "name": "echo",
    "title": "Echo",
    "loaded": True,
    "native_fps": 16.0,
    "width": 320,
    "height": 192,
    "params": Params(prompt="watercolour on paper").schema(),
    "styles": [{"name": "Watercolour", "prompt": "watercolour on paper"}, {"name": "Neon", "prompt": "neon at night"}],
}


class PageService(EchoService):
    """Serves the page, its SDK and one preset as the service does."""

    def _app(self) -> FastAPI:
        app = super()._app()

        @app.get("/")
        async def page() -> FileResponse:
            return FileResponse(WEB / "index.html")

        @app.get("/sdk/streamgen.js")
        async def sdk() -> FileResponse:
            return FileResponse(WEB / "streamgen.js", media_type="text/javascript")

        @app.get("/api/presets")
        async def presets() -> dict[str, Any]:
            return {"presets": [PRESET], "current": PRESET["name"]}

        @app.get("/readyz")
        async def readyz() -> dict[str, str]:
            return {"status": "ready"}

        app.mount("/assets", StaticFiles(directory=WEB))
        return app


def main() -> None:
    with PageService(Behaviour(defaults=Params().as_dict())) as service:
        print(f"ready: {service.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

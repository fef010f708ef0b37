"""The file ``stack.json``: ports, the password and external systems, chosen once and kept from start to start."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace_local.loopback import claim, free_port
from headrace_local.model import Endpoints, External, StackError


class StackFile:
    """The settings of one stack, readable by their owner only."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / "stack.json"

    def read(self) -> dict[str, Any]:
        """Return the kept settings; an empty dictionary if the stack was never started."""
        settings: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return settings

    def renew(self, external: External) -> dict[str, Any]:
        """Return the stored settings, with a new port for each one that another program uses now."""
        kept = self.read()
        ports = {name: port for name, port in kept.get("ports", {}).items() if claim(port)}
        for name in ("kafka", "controller", "registry", "postgres"):
            if name not in ports:
                ports[name] = free_port(ports.values())
        password = kept.get("password") or secrets.token_urlsafe(24)
        settings = {"ports": ports, "password": password, "external": asdict(external)}
        self._write(settings)
        return settings

    def port(self, name: str) -> int:
        """Return the port of the service ``name``, chosen on the first call and the same from then on."""
        settings = self.read()
        ports = settings["ports"]
        if name not in ports:
            ports[name] = free_port(ports.values())
            self._write(settings)
        return int(ports[name])

    def endpoints(self) -> Endpoints:
        """Return the parts' endpoints; raises :class:`StackError` if the stack was never started."""
        settings = self.read()
        if not settings:
            raise StackError("no stack was started here", where=str(self._state_dir), remedy="Run `headrace up`.")
        external, ports = External(**settings.get("external", {})), settings["ports"]
        dsn = f"postgresql://headrace:{settings['password']}@127.0.0.1:{ports['postgres']}/postgres"
        return Endpoints(
            external.kafka or f"127.0.0.1:{ports['kafka']}",
            external.registry or f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
            external.postgres or dsn,
            self._state_dir,
        )

    def _write(self, settings: dict[str, Any]) -> None:
        partial = self._path.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(settings, indent=2))
        partial.replace(self._path)

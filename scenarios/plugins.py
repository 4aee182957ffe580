"""CNI plugins as a runtime calls them: in this process, or the files of a bin dir.

    cni = Plugins(host.base)
    result = cni.add("bridge", conf, "c1")
    cni.delete("bridge", conf, "c1")

Shapes   a container is a namespace made when it is first named; a configuration is a dict, into
         which `type` is put. A call that fails raises `Refused` with the error object
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from cni import plugin
from cni.marker import MARKER
from netkit.kernel import netns
from scenarios.lab import run

Json = dict[str, Any]
_BOUND_S = 30


class Refused(Exception):
    """A plugin's error object."""

    def __init__(self, status: int, answer: Json) -> None:
        super().__init__(f"{answer.get('code')}: {answer.get('msg')} ({answer.get('details')})")
        self.status = status
        self.answer = answer
        self.code: int = answer.get("code", 0)


class Plugins:
    """*bin_dir* None: `cni.plugin.handle` in this process, its IPAM plugins as well."""

    def __init__(self, base: str, bin_dir: str | None = None, more: str = "") -> None:
        self.base = base
        self.execute = bin_dir is not None
        self.bin_dir = bin_dir or f"{base}/bin"
        self.path = f"{self.bin_dir}:{more}".rstrip(":")
        if bin_dir is None:
            os.makedirs(self.bin_dir, exist_ok=True)
            for name in ("host-local", "static", "dhcp"):
                with open(f"{self.bin_dir}/{name}", "wb") as file:
                    file.write(b"#!/bin/false\n" + MARKER)
                os.chmod(file.name, 0o755)

    def ipam(self, *subnets: str, **more: Any) -> Json:
        """host-local's part of a configuration, its leases in this host's own directory."""
        ranges = [[{"subnet": subnet}] for subnet in subnets]
        return {"type": "host-local", "dataDir": f"{self.base}/leases", "ranges": ranges, **more}

    def leases(self, network: str) -> list[str]:
        """The addresses out, by host-local's files."""
        try:
            names = os.listdir(f"{self.base}/leases/{network}")
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name[0].isdigit())

    def netns(self, container: str) -> str:
        path = netns.named(container)
        if not os.path.exists(path):
            run(f"ip netns add {container}", f"ip -n {container} link set lo up")
        return path

    def call(
        self,
        kind: str,
        verb: str,
        conf: Json,
        container: str = "c1",
        ifname: str = "eth0",
        *,
        at: str | None = None,
        args: str = "",
    ) -> Json | None:
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": self.netns(container) if at is None else at,
            "CNI_ARGS": args,
            "CNI_PATH": self.path,
        }
        stdin = json.dumps({"type": kind, **conf}).encode()
        if self.execute:
            ran = subprocess.run(
                [f"{self.bin_dir}/{kind}"],
                input=stdin,
                capture_output=True,
                env={**os.environ, **environ},
                timeout=_BOUND_S,
                check=False,
            )
            status, answer = ran.returncode, ran.stdout
        else:
            status, answer = plugin.handle(kind, environ, stdin)
        said = json.loads(answer) if answer.strip() else None
        if status:
            raise Refused(status, said or {})
        return said

    def add(self, kind: str, conf: Json, container: str = "c1", **more: Any) -> Json:
        said = self.call(kind, "ADD", conf, container, **more)
        assert said is not None
        return said

    def delete(self, kind: str, conf: Json, container: str = "c1", **more: Any) -> None:
        assert self.call(kind, "DEL", conf, container, **more) is None

    def check(
        self, kind: str, conf: Json, result: Json, container: str = "c1", **more: Any
    ) -> None:
        said = self.call(kind, "CHECK", {**conf, "prevResult": result}, container, **more)
        assert said is None

    def gc(self, kind: str, conf: Json, *valid: tuple[str, str]) -> None:
        kept = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        conf = {**conf, "cniVersion": "1.1.0", "cni.dev/valid-attachments": kept}
        assert self.call(kind, "GC", conf) is None

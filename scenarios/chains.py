"""A network of chained CNI plugins, and containers attached to it.

web = Chain(cni, {"type": "portmap"})
c1 = web.add("c1", portMappings=[published(8080, 80)])
web.check("c1")
web.delete("c1")
"""

from __future__ import annotations

from scenarios.plugins import Json, Plugins, Refused

SUBNETS = ("10.22.0.0/24", "fd00:22::/64")


class Chain:
    """A network: bridge, and the plugins behind it; each container is attached once."""

    def __init__(self, cni: Plugins, *plugins: Json, **bridge: object) -> None:
        first = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipMasq": True}
        ipam = cni.ipam(*SUBNETS)
        self.plugins: list[Json] = [{**first, "ipam": ipam, **bridge}, *plugins]
        self.cni = cni
        self.name = "web"
        self.ifname = "eth0"
        self.confs: dict[str, list[Json]] = {}
        self.results: dict[str, Json] = {}

    def add(self, container: str, **runtime: object) -> str:
        """Attach a container, with these capabilities; its place, once frames pass."""
        common = {"cniVersion": "1.1.0", "name": self.name, "runtimeConfig": runtime}
        confs = [{**common, **conf} for conf in self.plugins]
        self.confs[container] = confs
        result: Json | None = None
        done: list[Json] = []
        try:
            for conf in confs:
                more = {} if result is None else {"prevResult": result}
                result = self.cni.add(conf["type"], {**conf, **more}, container, ifname=self.ifname)
                done.append(conf)
        except Refused:
            for conf in reversed(done):
                self.cni.delete(conf["type"], conf, container, ifname=self.ifname)
            raise
        assert result is not None
        self.results[container] = result
        return self.cni.netns(container)

    def delete(self, container: str, at: str | None = None) -> None:
        for conf in reversed(self.confs.pop(container)):
            self.cni.delete(conf["type"], conf, container, ifname=self.ifname, at=at)

    def check(self, container: str) -> None:
        for conf in self.confs[container]:
            self.cni.check(
                conf["type"], conf, self.results[container], container, ifname=self.ifname
            )

    def ip(self, container: str, version: int = 4) -> str:
        found = (ip["address"].partition("/")[0] for ip in self.results[container]["ips"])
        return str(next(ip for ip in found if (":" in ip) == (version == 6)))


def published(host: int, container: int, protocol: str = "tcp", ip: str = "") -> Json:
    return {"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": ip}

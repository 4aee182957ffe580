from ipaddress import IPv4Network

from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host, snapshot


def test_everything_is_as_before_once_it_is_removed(host: Host) -> None:
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
    before = snapshot()
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/16"),)))
    a = engine.connect("web", request=Request(ports=PortSpec.parse("8080:80")), name="a")
    engine.connect("web", name="b")
    assert a.netns is not None
    with host.serve(a.netns, "tcp", 80) as seen:
        assert host.ask(lan, "10.9.0.1", 8080) == "10.9.0.2"
    with host.serve(lan, "tcp", 80) as seen:
        assert host.ask(a.netns, "10.9.0.2", 80) == "10.9.0.1"
    assert seen
    engine.disconnect("web", "a")
    engine.disconnect("web", "b")
    engine.delete_network("web")
    assert snapshot() == before

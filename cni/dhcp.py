"""The IPAM plugin `dhcp`: an address from a DHCP server, for as long as the container lives.

    dhcp daemon [-socketpath PATH] …        the keeper of the leases, in the foreground

A keeper (netkit.dhcp.keeper) gets the lease, renews it and gives it back; the first ADD starts one
if none runs. The interface has to be there: the main plugin makes it before it asks.

Shapes   as every plugin: environment and standard input in, exit status and an answer out
Errors   CniError: 4 where the container has no such interface, 7 for a wrong configuration, 8 for
         a wrong CNI_NETNS, 11 where no server gives anything, 50 where no keeper can be started;
         100 where another address is given than was asked for, or another program has the socket;
         101 where CHECK finds no lease
Source   containernetworking/plugins, plugins/ipam/dhcp: keys, names of options, client id, what a
         lease means as a result. Beyond it: DNS, the link's MTU, addresses asked for, CHECK, GC,
         STATUS; a lease that outlives its keeper
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from cni import ipam_plugin
from cni.ipam_plugin import ADDRESS_TAKEN, NOT_LEASED
from cni.spec import IP, CniError, Code, Command, Dns, Json, Result, Route, options
from netkit.dhcp import book, calls, message
from netkit.dhcp.client import Lease
from netkit.dhcp.message import Option
from netkit.errors import Conflict, Exhausted, NetkitError, NotFound
from netkit.kernel import netns

_NAMES: Mapping[str, int] = {  # as in dhcp-options(5); the first six are the reference's
    "dhcp-client-identifier": Option.CLIENT_ID,
    "subnet-mask": Option.SUBNET_MASK,
    "routers": Option.ROUTERS,
    "host-name": Option.HOST_NAME,
    "user-class": Option.USER_CLASS,
    "vendor-class-identifier": Option.VENDOR_CLASS,
    "domain-name-servers": Option.NAME_SERVERS,
    "domain-name": Option.DOMAIN,
    "domain-search": Option.SEARCH,
    "interface-mtu": Option.MTU,
    "static-routes": Option.STATIC_ROUTES,
    "rfc3442-classless-static-routes": Option.CLASSLESS_ROUTES,
}
# The reference asks for the first two. The others add to a result, and change no route
_REQUESTED = (
    Option.ROUTERS,
    Option.SUBNET_MASK,
    Option.NAME_SERVERS,
    Option.DOMAIN,
    Option.SEARCH,
    Option.MTU,
)
_THE_CLIENTS_OWN = {
    Option.PAD,
    Option.WANTED_ADDRESS,
    Option.LEASE_TIME,
    Option.OVERLOAD,
    Option.KIND,
    Option.SERVER,
    Option.REQUESTED,
    Option.MOST_BYTES,
    Option.END,
}
_MOST_VALUE, _MOST_ID = 255, 254  # bytes; a client's id has one before it
_SCOPE_LINK = 253


class _Request(msgspec.Struct):
    option: str | int = ""
    skip_default: bool = msgspec.field(default=False, name="skipDefault")


class _Provide(msgspec.Struct):
    option: str | int
    value: str = ""
    from_arg: str = msgspec.field(default="", name="fromArg")


class _Where(msgspec.Struct):
    socket: str = msgspec.field(default=book.SOCKET, name="daemonSocketPath")


class Conf(_Where):
    request: list[_Request] = []
    provide: list[_Provide] = []
    priority: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The executable: a call of a runtime, or the daemon."""
    said = sys.argv[1:] if arguments is None else list(arguments)
    if said[:1] == ["daemon"]:
        from netkit.dhcp import keeper

        sys.exit(keeper.main(said[1:]))
    ipam_plugin.run(handle)


def handle(environ: Mapping[str, str], stdin: str | bytes) -> tuple[int, Json | None]:
    """One call of a runtime: exit status, and what to print."""
    return ipam_plugin.serve(VERBS, environ, stdin)


def add(command: Command) -> Json:
    conf = options(command.ipam, Conf, "ipam")
    _check_netns(command.netns)
    wanted = _wanted(command)
    wish = book.Wish(
        _owner(command),
        os.path.abspath(command.netns),
        to_send(command, conf),
        wanted,
        conf.priority,
    )
    done = calls.ask(_socket(conf), book.Take(wish))
    assert done.lease
    if wanted not in (None, done.lease.address):
        calls.ask(_socket(conf), book.Release(wish.owner))
        raise CniError(
            ADDRESS_TAKEN,
            f"DHCP server {done.lease.server} gives {done.lease.address}, not {wanted}",
            "it has given that to another, or is not set up to give it to this client",
        )
    return result(done.lease, done.mtu, conf.priority).to_json(command.version)


def delete(command: Command) -> None:
    path, owner = _socket(options(command.ipam, _Where, "ipam")), _owner(command)
    try:
        # somebody may be at it still, though nothing is on file; without a keeper nobody is
        calls.ask(path, book.Release(owner), start=book.holds(path, owner))
    except Conflict:  # another program's leases are its own
        if book.holds(path, owner):
            raise


def check(command: Command) -> None:
    path, owner = _socket(options(command.ipam, Conf, "ipam")), _owner(command)
    lease = calls.ask(path, book.Find(owner)).lease
    if lease is None:
        raise CniError(
            NOT_LEASED,
            f"{owner} has no lease",
            "it was never got, given back, taken away by the server, or has run out",
        )
    said = [ip.address for ip in (command.previous or Result()).ips if ":" not in ip.address]
    if said and str(lease.interface) not in said:
        raise CniError(
            NOT_LEASED, f"{owner} has the lease of {lease.interface}, not of {', '.join(said)}"
        )


def gc(command: Command) -> None:
    path = _socket(options(command.ipam, _Where, "ipam"))
    collect = book.Collect(command.name, sorted(command.valid_attachments))
    calls.ask(path, collect, start=not book.is_empty(path))


def status(command: Command) -> None:
    conf = options(command.ipam, Conf, "ipam")
    to_send(command, conf)
    try:
        calls.ask(_socket(conf), book.Hello())
    except (NetkitError, OSError) as error:
        hint = getattr(error, "hint", None)
        raise CniError(Code.NOT_AVAILABLE, f"no leases can be kept: {error}", hint) from error


def _translated(verb: ipam_plugin.Verb) -> ipam_plugin.Verb:
    """netkit's errors become CNI's."""

    def translated(command: Command) -> Json | None:
        try:
            return verb(command)
        except NetkitError as error:
            raise CniError(_code(error), str(error), error.hint) from error

    return translated


VERBS: Mapping[str, ipam_plugin.Verb] = {
    "ADD": _translated(add),
    "DEL": _translated(delete),
    "CHECK": _translated(check),
    "GC": _translated(gc),
    "STATUS": _translated(status),
}


def to_send(command: Command, conf: Conf) -> dict[int, bytes]:
    """The options every message of the client bears."""
    arguments = dict(pair.partition("=")[::2] for pair in command.args.split(";"))
    own_id = f"{command.container_id}/{command.name}/{command.ifname}".encode()
    found: dict[int, bytes] = {Option.CLIENT_ID: b"\0" + own_id[:_MOST_ID]}
    for i, provide in enumerate(conf.provide):
        code = _number(provide.option, f"ipam.provide[{i}]")
        if code in _THE_CLIENTS_OWN:
            raise CniError(
                Code.INVALID_CONFIG, f"ipam.provide[{i}]: option {code} is the client's own to say"
            )
        for text in (provide.value, arguments.get(provide.from_arg, "")):
            value = text.encode()
            if len(value) > _MOST_VALUE:
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"ipam.provide[{i}]: a value of {len(value)} bytes, {_MOST_VALUE} are the most",
                )
            if value:
                found[code] = value
    asked = [
        _number(each.option, f"ipam.request[{i}]")
        for i, each in enumerate(conf.request)
        if each.option != ""
    ]
    if not any(each.skip_default for each in conf.request):
        asked += _REQUESTED
    if asked:
        found[Option.REQUESTED] = bytes(dict.fromkeys(asked))
    return found


def result(lease: Lease, link_mtu: int, priority: int) -> Result:
    """A lease as what an IPAM plugin answers; *link_mtu* is what the interface can do anyway."""
    said = lease.options
    routers = message.addresses(said, Option.ROUTERS)
    mtu = message.mtu(said) or 0
    routes = tuple(
        Route(
            str(dst),
            str(gateway),
            mtu=mtu if mtu < link_mtu else 0,
            priority=priority,
            scope=_SCOPE_LINK if gateway == message.ANY else None,
        )
        for dst, gateway in message.routes(said)
    )
    servers = map(str, message.addresses(said, Option.NAME_SERVERS))
    dns = Dns(tuple(servers), message.domain(said), message.search(said))
    ip = IP(str(lease.interface), str(routers[0]) if routers else "")
    return Result((ip,), routes, dns)


def _number(option: str | int, what: str) -> int:
    code = _NAMES.get(str(option), option)
    with_digits = str(code)
    if not with_digits.isascii() or not with_digits.isdigit() or int(with_digits) > Option.END:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{what}: {option!r:.80} is no option of DHCP's",
            f"a number up to {int(Option.END)}, or one of {', '.join(_NAMES)}",
        )
    return int(with_digits)


def _wanted(command: Command) -> IPv4Address | None:
    """The address asked for; CNI_ARGS may say other things, too, for `fromArg`."""
    texts = command._replace(args=f"{command.args};IgnoreUnknown=1").wanted_ips()
    try:
        found = {IPv4Address(text.partition("/")[0]) for text in texts}
    except ValueError:
        found = set()
    if texts and len(found) != 1:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{', '.join(texts):.80} is asked for",
            "DHCP gives an interface one IPv4 address",
        )
    return found.pop() if found else None


def _check_netns(path: str) -> None:
    try:
        identity = netns.identity(path)
    except NetkitError as error:
        raise CniError(Code.INVALID_NETNS, f"CNI_NETNS: {error}", error.hint) from error
    if netns.is_hosts(identity):
        raise CniError(
            Code.INVALID_NETNS, f"CNI_NETNS {path!r:.80} is the host's own network namespace"
        )


def _socket(conf: _Where) -> str:
    if not os.path.isabs(conf.socket):
        raise CniError(
            Code.INVALID_CONFIG, f"ipam.daemonSocketPath: {conf.socket!r:.80} is no absolute path"
        )
    return conf.socket


def _owner(command: Command) -> book.Owner:
    return book.Owner(command.container_id, command.name, command.ifname)


def _code(error: NetkitError) -> int:
    if isinstance(error, Exhausted):
        return Code.TRY_AGAIN_LATER
    if isinstance(error, NotFound):
        return Code.INVALID_ENVIRONMENT
    return ADDRESS_TAKEN if isinstance(error, Conflict) else Code.IO_FAILURE


if __name__ == "__main__":
    main()

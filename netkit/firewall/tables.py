"""The two tables of the back end nftables, as nft reads them: all that never changes.

Shapes   table `inet netkit` filters and translates, table `bridge netkit` guards the ports. Sets
         whose names end in 4 or 6 are those of that IP version
Source   nft(8); Docker's semantics for published ports; trust.md S01-S20 for the guards
"""

# What there is of each set for each IP version: {v} is 4 or 6, {type} ipv4_addr or ipv6_addr
_BY_VERSION = """\
	set loop{v} { type {type} . {type}; flags interval; }
	set siblings{v} { type {type} . {type}; flags interval; }
	set hidden{v} { type {type}; }
	set covered{v} { type {type}; }
	set spared{v} { type {type} . {type} . inet_proto . inet_service; flags interval; }
	set sources{v} { type ifname . {type}; }
	set allowed{v} { type {type} . inet_proto . inet_service; flags interval; }
	map ports{v} { type {type} . inet_proto . inet_service : {type} . inet_service; }
	map wildcard{v} { type inet_proto . inet_service : {type} . inet_service; }
	map ranges{v} { type {type} . inet_proto . inet_service : {type}; flags interval; }
	map devices{v} { type ifname . inet_proto . inet_service : {type} . inet_service; }
	map outgoing{v} { type {type} : {type}; }
	map sourced{v} { type ifname : {type}; }
	set serve{v} { type ifname . {type} . inet_proto . inet_service; flags interval; }
	set serve_all{v} { type ifname . {type}; flags interval; }
	set gateways{v} { type ifname . {type}; }
	set host_ports{v} { type {type} . ifname . inet_proto . inet_service; flags interval; }
	set confined{v} { type {type}; }
	set egress{v} { type {type} . {type} . inet_proto . inet_service; flags interval; }
	set egress_all{v} { type {type} . {type}; flags interval; }
	set link_egress{v} { type {type} . ifname . inet_proto . inet_service; flags interval; }
	set link_egress_all{v} { type {type} . ifname; flags interval; }
	set learnt{v} { type {type} . {type} . inet_proto . inet_service; flags timeout; }
	set learnt_all{v} { type {type} . {type}; flags timeout; }
"""
_SETS_BY_VERSION = "".join(
    _BY_VERSION.replace("{v}", version).replace("{type}", f"ipv{version}_addr") for version in "46"
)
# whom one may reach: everything of it, ports, and ranges of ports, which cost more to look up
_REACH = """\
	set reach_all { type ifname . ifname; }
	set reach { type ifname . ifname . inet_proto . inet_service; }
	set reach_ranges { type ifname . ifname . inet_proto . inet_service; flags interval; }
"""

SCRIPT = f"""\
table inet netkit {{
	set inside {{ type ifname; }}
	set plain {{ type ifname; }}
	set internal {{ type ifname; }}
	set same {{ type ifname . ifname; }}
	set guarded {{ type ifname; }}
	set masqueraded {{ type nf_proto . ifname; }}
	set open {{ type nf_proto . ifname; }}
	set routed {{ type nf_proto . ifname; }}
	set transit {{ type nf_proto; }}
	set switched {{ type ifname . ifname; }}
	set stations {{ type ifname . ether_addr; }}
	set hostless {{ type ifname; }}
	set confined {{ type ifname; }}
{_REACH}\
{_SETS_BY_VERSION}
	# yours: runs first on all that is forwarded, and netkit never writes to it
	chain admin {{
	}}

	# route_localnet is on for our bridges, so that localhost can reach published ports:
	# hence nobody behind them may reach the host's own loopback
	chain raw {{
		type filter hook prerouting priority raw; policy accept;
		iifname @inside ip daddr 127.0.0.0/8 drop
		iifname @plain ip daddr 127.0.0.0/8 drop
		iifname @guarded jump source
	}}

	chain source {{
		iifname . ip saddr @sources4 return
		iifname . ip6 saddr @sources6 return
		drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		jump admin
		iifname != @inside oifname != @inside jump transit
		iifname . oifname @same accept
		iifname . oifname @switched jump switched
		ct state invalid drop
		iifname @internal drop
		oifname @internal drop
		ct state established,related accept
		oifname != @inside jump leave
		ct status dnat accept
		ip daddr . meta l4proto . th dport @allowed4 accept
		ip6 daddr . meta l4proto . th dport @allowed6 accept
		iifname @guarded oifname @guarded jump among
		iifname != @inside meta nfproto . oifname @open accept
		iifname != @inside meta nfproto . oifname @routed meta l4proto {{ icmp, ipv6-icmp }} accept
		oifname @inside drop
	}}

	# siblings behind links of their own
	chain among {{
		ip saddr . ip daddr @siblings4 accept
		ip6 saddr . ip6 daddr @siblings6 accept
		iifname . oifname @reach_all accept
		iifname . oifname . meta l4proto . th dport @reach accept
		iifname . oifname . meta l4proto . th dport @reach_ranges accept
		oifname . ip saddr @serve_all4 accept
		oifname . ip6 saddr @serve_all6 accept
		oifname . ip saddr . meta l4proto . th dport @serve4 accept
		oifname . ip6 saddr . meta l4proto . th dport @serve6 accept
	}}

	# what a bridge of closed ports passed on, where we are shown that (br_netfilter): it was asked
	# below, and what comes back through the host bears the host's MAC and is judged here
	chain switched {{
		meta pkttype {{ broadcast, multicast }} accept
		iifname . ether daddr @stations accept
	}}

	# new connections to what is not ours
	chain leave {{
		iifname @confined jump egress
		ip saddr @confined4 jump egress
		ip6 saddr @confined6 jump egress
	}}

	chain egress {{
		ip daddr . iifname . meta l4proto . th dport @link_egress4 accept
		ip6 daddr . iifname . meta l4proto . th dport @link_egress6 accept
		ip daddr . iifname @link_egress_all4 accept
		ip6 daddr . iifname @link_egress_all6 accept
		ip daddr . ip saddr . meta l4proto . th dport @egress4 accept
		ip6 daddr . ip6 saddr . meta l4proto . th dport @egress6 accept
		ip daddr . ip saddr @egress_all4 accept
		ip6 daddr . ip6 saddr @egress_all6 accept
		ip saddr . ip daddr . meta l4proto . th dport @learnt4 accept
		ip6 saddr . ip6 daddr . meta l4proto . th dport @learnt6 accept
		ip saddr . ip daddr @learnt_all4 accept
		ip6 saddr . ip6 daddr @learnt_all6 accept
		drop
	}}

	chain input {{
		type filter hook input priority filter; policy accept;
		iifname @hostless jump host
	}}

	# what a network needs of the host, at its gateway: neighbours, pings and names. Whether an
	# address is on the link `fib` cannot tell: of one on many pairs it knows the first only
	chain host {{
		ct state established,related accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		icmp type echo-request iifname . ip daddr @gateways4 accept
		icmpv6 type echo-request iifname . ip6 daddr @gateways6 accept
		meta l4proto {{ tcp, udp }} th dport 53 iifname . ip daddr @gateways4 accept
		meta l4proto {{ tcp, udp }} th dport 53 iifname . ip6 daddr @gateways6 accept
		ip saddr . iifname . meta l4proto . th dport @host_ports4 accept
		ip6 saddr . iifname . meta l4proto . th dport @host_ports6 accept
		drop
	}}

	# not ours: dropped only if it is we who made a router of this host
	chain transit {{
		iifname @plain accept
		oifname @plain accept
		ct state established,related accept
		meta nfproto @transit drop
		accept
	}}

	# 127.0.0.0/8 from outside is never translated: the kernel then drops it as a martian
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local jump publish
		ip6 daddr != ::1 fib daddr type local jump publish
	}}

	# the kernel routes nothing from ::1 off the loopback: left to whoever listens there
	chain output {{
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 accept
		fib daddr type local jump publish
	}}

	chain publish {{
		ip saddr . ip daddr . meta l4proto . th dport @spared4 return
		ip6 saddr . ip6 daddr . meta l4proto . th dport @spared6 return
		dnat ip to ip daddr . meta l4proto . th dport map @ports4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
		dnat ip to iifname . meta l4proto . th dport map @devices4
		dnat ip6 to iifname . meta l4proto . th dport map @devices6
		dnat ip to meta l4proto . th dport map @wildcard4
		dnat ip6 to meta l4proto . th dport map @wildcard6
		dnat ip to ip daddr . meta l4proto . th dport map @ranges4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
	}}

	# a container that meets its own network through a published port must see the host's
	# address, or the answer would take the short way back, untranslated
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 accept
		ip6 daddr ff00::/8 accept
		oifname != @inside jump outwards
		ct status dnat ip saddr . ip daddr @loop4 masquerade
		ct status dnat ip6 saddr . ip6 daddr @loop6 masquerade
		ct status dnat ip daddr @covered4 masquerade
		ct status dnat ip6 daddr @covered6 masquerade
		ct status dnat ip saddr 127.0.0.0/8 oifname @inside masquerade
		ct status dnat ip saddr 127.0.0.0/8 oifname @plain masquerade
		ip saddr @hidden4 ip saddr . ip daddr != @loop4 masquerade
		ip6 saddr @hidden6 ip6 saddr . ip6 daddr != @loop6 masquerade
	}}

	chain outwards {{
		snat ip to ip saddr map @outgoing4
		snat ip6 to ip6 saddr map @outgoing6
		snat ip to iifname map @sourced4
		snat ip6 to iifname map @sourced6
		meta nfproto . iifname @masqueraded masquerade
	}}
}}
table bridge netkit {{
	set ports {{ type ifname; }}
	set addresses4 {{ type ifname . ether_addr . ipv4_addr; }}
	set addresses6 {{ type ifname . ether_addr . ipv6_addr; }}
	set targets {{ typeof iifname . ether saddr . @th,64,128; }}
	set unaddressed {{ type ifname . ether_addr . ether_type; }}
	set closed {{ type ifname; }}
	set meet {{ type ifname . ifname; }}
	set meet_all {{ type ifname; }}
{_REACH}\
	set serve {{ type ifname . inet_proto . inet_service; }}
	set serve_ranges {{ type ifname . inet_proto . inet_service; flags interval; }}
	set serve_all {{ type ifname; }}

	chain arp_sender {{
		iifname . arp saddr ether . arp saddr ip @addresses4 accept
	}}

	# nobody advertises a neighbour but itself (the target is what follows 8 bytes of ICMPv6),
	# and from no address one may only ask whether one's own is free, and listen
	chain neighbour {{
		icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @targets drop
		ip6 saddr != :: accept
		icmpv6 type {{ nd-neighbor-solicit, mld-listener-report, mld2-listener-report }} accept
	}}

	# what a port sends must bear its own MAC and address, in ARP and ND too; all else (IPv6 on an
	# IPv4 network, VLAN tags but on a trunk, router advertisements, DHCP answers, spanning tree)
	# is dropped before the bridge learns from it
	chain guard {{
		type filter hook prerouting priority -300; policy accept;
		iifname != @ports accept
		ether type {{ 8021q, 8021ad }} iifname . ether saddr . ether type != @unaddressed drop
		udp sport {{ 67, 547 }} drop
		iifname . ether saddr . ip saddr @addresses4 accept
		iifname . ether saddr . arp saddr ip @addresses4 jump arp_sender
		icmpv6 type {{ nd-router-advert, nd-redirect }} drop
		iifname . ether saddr . ip6 saddr @addresses6 jump neighbour
		iifname . ether saddr . ether type @unaddressed accept
		drop
	}}

	# slow protocols (LACP …) pass prerouting by, and the bridge would learn their sender's MAC
	chain guard_local {{
		type filter hook input priority -300; policy accept;
		iifname @ports ether daddr 01:80:c2:00:00:02 drop
	}}

	# before br_netfilter shows it to others
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname @closed oifname @closed jump between
	}}

	# a bridge knows no connections: an answer is what comes from the port one may ask
	chain between {{
		iifname . oifname . meta l4proto . th dport @reach accept
		oifname . iifname . meta l4proto . th sport @reach jump answer
		oifname . meta l4proto . th dport @serve accept
		iifname . meta l4proto . th sport @serve jump answer
		iifname . oifname @reach_all accept
		oifname . iifname @reach_all jump answer
		oifname @serve_all accept
		iifname @serve_all jump answer
		iifname . oifname . meta l4proto . th dport @reach_ranges accept
		oifname . iifname . meta l4proto . th sport @reach_ranges jump answer
		oifname . meta l4proto . th dport @serve_ranges accept
		iifname . meta l4proto . th sport @serve_ranges jump answer
		iifname . oifname @meet jump find
		oifname . iifname @meet jump find
		iifname @meet_all jump find
		oifname @meet_all jump find
		drop
	}}

	# all but what opens a connection; of TCP, what shows by its flags that it does not
	chain answer {{
		tcp flags & (syn | ack) != syn accept
		icmp type != echo-request accept
		icmpv6 type != echo-request accept
		meta l4proto != {{ tcp, icmp, ipv6-icmp }} accept
	}}

	# who may meet must find each other, and hear what became of a packet. Later fragments bear no
	# ports, and are nothing without the first; but none may overlap its header (RFC 3128)
	chain find {{
		ether type arp accept
		icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
		icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
nd-neighbor-solicit, nd-neighbor-advert }} accept
		ip frag-off & 0x1fff > 1 accept
		frag frag-off > 1 accept
	}}
}}
"""

/* The tc programs of the fast path: they carry what the daemon would pass unchanged.
 *
 * vxland_encap runs at egress of the TAP, before its queue. A packet to a known VTEP gets the outer headers here and
 * leaves through the underlay. vxland_decap runs at ingress of the underlay. A datagram from a known VTEP loses its
 * outer headers and enters through the TAP. Both return TC_ACT_UNSPEC for everything else: the frame goes on to the
 * daemon as if there were no program, and datapath/encap.py or datapath/decap.py decides. No program drops anything.
 *
 * A frame is carried if all of its parts are plain: no VLAN tag, no IP options or extension headers, no fragment, exact
 * lengths. The daemon knows the other shapes, so this file need not.
 *
 * Order. A flow must not change sides while the daemon has a packet of it in a queue, or a later packet overtakes it.
 * So each flow has the time of its last packet that went to the daemon (`flows`). The daemon writes when it has last
 * seen its queues empty (drained_ns); only a flow whose time is older may be carried. Where a packet shows no ports, as
 * a fragment, its time counts for all flows between the two addresses. The other change is safe: what a program has
 * carried is already on the wire, or in the backlog of the TAP.
 *
 * Life. The programs outlive the daemon. It writes the time into attended_ns often; if that gets old, or its socket is
 * gone, programs carry also what they would have left to the daemon for speed or order. After unattended_ns without a
 * daemon they carry nothing: nobody removes the leases that have ended.
 *
 * Only helpers without the GPL's condition are used, and only structs of the kernel's user-space headers: no BTF of the
 * running kernel is needed. Linux 5.13 is the oldest kernel that has all of it (BPF_F_ADJ_ROOM_ENCAP_L2_ETH).
 */
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TO_DAEMON TC_ACT_UNSPEC /* other programs of the interface still see the frame */

#define PEERS 16384   /* a cluster with more nodes leaves the rest to the daemon */
#define SUBNETS 32768 /* both families, and prefixes of NAT */
#define SMALL 512      /* bytes of an IP packet */
#define FLOWS 16384   /* slots of `flows`, for each direction */
#define PORTS 128     /* source ports: the sending sockets of the daemon */

#define MAX_DATAGRAM 65535 /* bytes of an IPv4 packet */
#define MIN_SEGMENT 256	   /* bytes: the daemon judges superframes that are cut finer */
#define CHUNK 512	   /* bytes that bpf_csum_diff() takes at a time */
#define CHUNKS 20	   /* of a packet of 10,000 bytes */

#define SEGMENT_MARK 0x56580000 /* with gso_size: reports it to the daemon, which reads it by SO_RCVMARK */
#define MARK_SPAN 0x4000	/* kube-proxy has the bits from this one on */

#define SOCKET_TTL 64 /* of the daemon's sockets */

#define ECN_BITS 0x03
#define ECN_CE 0x03

#define CHECK_STRICT 2 /* model/source_check.py */

enum direction { ENCAP, DECAP };
enum df { DF_UNSET, DF_SET, DF_INHERIT };

struct vxlanhdr { /* RFC 7348 section 5; linux/vxlan.h has none for user space */
	__be32 flags;
	__be32 vni; /* VNI << 8 */
};
#define VXLAN_FLAGS bpf_htonl(0x08000000) /* the I flag, and every reserved bit zero */
#define VXLAN_KIND bpf_htonl(0x0c000000)  /* the I flag, and the P flag of VXLAN-GPE */
#define VNI_MASK bpf_htonl(0xffffff00)

/* Between the underlay's Ethernet header and the inner one. */
struct outer {
	struct iphdr ip;
	struct udphdr udp;
	struct vxlanhdr vxlan;
};
#define OVERHEAD (sizeof(struct outer) + ETH_HLEN) /* bytes that a frame gains, 50 */

/* Bytes of the headers that are read: Ethernet, IP, and TCP, which is the longest. */
#define V4_HEADERS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr))
#define V6_HEADERS (ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct tcphdr))

/* Written by the daemon (fastpath/layout.py has the same order), read here. */
struct settings {
	__u64 carry_after_ns; /* all flows count as left to the daemon at this time */
	__u64 attended_ns;    /* when the daemon was last seen */
	__u64 drained_ns[2];  /* when nothing was in its queues, by direction */
	__u64 hung_ns;	      /* a daemon that was not seen for that long does not read its sockets */
	__u64 unattended_ns;  /* without a daemon for that long, carry nothing */
	__be32 vni;	      /* VNI << 8 */
	__be32 address;	      /* our VTEP address, the outer source */
	__be32 public;	      /* where peers may send to as well; the same without such an address */
	__be16 port;
	__u16 ports_len; /* source ports; with DF_INHERIT as many again follow, which set DF */
	__u32 flood;	 /* small UDP packets of a flow in a millisecond that programs carry; more go to the daemon */
	__u32 mtu;	 /* of the TAP */
	__u8 mac[ETH_ALEN];
	__u8 ttl;      /* 0: that of the inner packet */
	__u8 tos;      /* DSCP << 2 */
	__u8 tos_bits; /* bits of the inner TOS that are copied: ECN, or all of it */
	__u8 df;       /* enum df */
	__u8 check_source;
	__u8 superframes; /* programs encapsulate them */
	__u8 aggregates;  /* programs decapsulate them */
	__be16 ports[PORTS];
} settings SEC(".data.settings");

/* What is known of flows, for each direction. Flows that share a slot only follow each other to the daemon. Nobody can
 * fill this table, or push a flow out of it. */
struct flow {
	__u64 left;   /* time of its last packet that was left to the daemon */
	__u64 window; /* begin of the millisecond in which `packets` were counted */
	__u64 packets;
} flows[2][FLOWS];

/* The TAP. An entry goes with its device: datagrams then go up the stack, to whoever has the port by now. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} tap SEC(".maps");

struct peer {
	__be32 address;
	__u32 slot; /* of `traffic` */
	__u32 most; /* bytes of an inner packet that the path carries */
	__u32 ifindex;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PEERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* the MAC, its first byte lowest */
	__type(value, struct peer);
} peers SEC(".maps");

struct prefix4 {
	__u32 len;
	__be32 address;
};

struct prefix6 {
	__u32 len;
	struct in6_addr address;
};

/* Outer sources of the VTEPs, and the subnets that they lease: to the slot of the VTEP. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, SUBNETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u32);
} sources SEC(".maps"), inner_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, SUBNETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u32);
} inner_v6 SEC(".maps");

struct count {
	__u64 frames;
	__u64 bytes;
};

/* By direction. Slot 0 is the sum of all peers, those that are gone included. */
struct traffic {
	struct count carried[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PEERS + 1);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[CHUNK]);
} scratch SEC(".maps");

/* An inner IP packet, as parse_inner() finds it. */
struct inner {
	__u64 src_hi, src_lo, dst_hi, dst_lo; /* in host order; IPv4 in the low half of `lo` */
	__u32 len;			      /* bytes, with the IP header */
	__u32 l4_at;			      /* bytes before the L4 header */
	__u32 headers_len;		      /* bytes before the payload of TCP and UDP; otherwise 0 */
	__u32 ports;			      /* sum of the ports of TCP and UDP */
	__u16 check;			      /* checksum field of TCP and UDP; otherwise 0 */
	__u8 version;
	__u8 proto;
	__u8 tos;
	__u8 ttl;
	bool df;
	bool plain; /* a shape that programs carry; otherwise only the addresses are set */
};

static __always_inline __u64 mac_key(const __u8 *mac)
{
	return mac[0] | (__u64)mac[1] << 8 | (__u64)mac[2] << 16 | (__u64)mac[3] << 24 | (__u64)mac[4] << 32 |
	       (__u64)mac[5] << 40;
}

static __always_inline bool same_mac(const __u8 *one, const __u8 *other)
{
	return mac_key(one) == mac_key(other);
}

static __always_inline __u64 u64_of(__be32 high, __be32 low)
{
	return (__u64)bpf_ntohl(high) << 32 | bpf_ntohl(low);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 ip_sum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return fold(sum);
}

/* Make the first `most` bytes readable, or all of a shorter packet; set *data and *end. `most` is a constant, as is every
 * offset into a packet here: the verifier takes others only from a process with CAP_PERFMON. */
static __always_inline bool pull(struct __sk_buff *skb, const __u32 most, void **data, void **end)
{
	*data = (void *)(long)skb->data;
	*end = (void *)(long)skb->data_end;
	if (*data + most <= *end)
		return true;
	if (bpf_skb_pull_data(skb, skb->len < most ? skb->len : most))
		return false;
	*data = (void *)(long)skb->data;
	*end = (void *)(long)skb->data_end;
	return true;
}

/* Parse the packet of `len` bytes at `at`. Return false if its addresses are not known. */
static __always_inline bool parse_inner(void *at, void *end, __be16 type, __u32 len, struct inner *in)
{
	void *l4;

	in->len = len;
	in->headers_len = 0;
	in->ports = 0;
	in->check = 0;
	in->plain = false;
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;

		if ((void *)(ip + 1) > end || ip->version != 4)
			return false;
		in->version = 4;
		in->src_hi = in->dst_hi = 0;
		in->src_lo = bpf_ntohl(ip->saddr);
		in->dst_lo = bpf_ntohl(ip->daddr);
		in->proto = ip->protocol;
		in->tos = ip->tos;
		in->ttl = ip->ttl;
		in->df = ip->frag_off & bpf_htons(0x4000);
		in->l4_at = sizeof(*ip);
		l4 = ip + 1;
		barrier_var(l4);
		if (ip->ihl != 5 || bpf_ntohs(ip->tot_len) != len || ip->frag_off & bpf_htons(0x3fff))
			return true;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;

		if ((void *)(ip + 1) > end || ip->version != 6)
			return false;
		in->version = 6;
		in->src_hi = u64_of(ip->saddr.s6_addr32[0], ip->saddr.s6_addr32[1]);
		in->src_lo = u64_of(ip->saddr.s6_addr32[2], ip->saddr.s6_addr32[3]);
		in->dst_hi = u64_of(ip->daddr.s6_addr32[0], ip->daddr.s6_addr32[1]);
		in->dst_lo = u64_of(ip->daddr.s6_addr32[2], ip->daddr.s6_addr32[3]);
		in->proto = ip->nexthdr;
		in->tos = bpf_ntohs(*(__be16 *)ip) >> 4;
		in->ttl = ip->hop_limit;
		in->df = true;
		in->l4_at = sizeof(*ip);
		l4 = ip + 1;
		barrier_var(l4);
		if (bpf_ntohs(ip->payload_len) + sizeof(*ip) != len)
			return true;
		switch (ip->nexthdr) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_FRAGMENT:
		case IPPROTO_AH:
		case IPPROTO_DSTOPTS:
			return true;
		}
	} else {
		return false;
	}
	if (in->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return true;
		in->ports = bpf_ntohs(tcp->source) + bpf_ntohs(tcp->dest);
		in->check = tcp->check;
		in->headers_len = in->l4_at + tcp->doff * 4;
		if (tcp->doff < 5 || in->headers_len > len)
			return true;
	} else if (in->proto == IPPROTO_UDP) {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > end)
			return true;
		in->ports = bpf_ntohs(udp->source) + bpf_ntohs(udp->dest);
		in->check = udp->check;
		in->headers_len = in->l4_at + sizeof(*udp);
	} else if (in->proto == IPPROTO_ICMPV6 && in->version == 6) {
		struct icmp6hdr *icmp = l4;

		/* The daemon answers neighbour discovery, and checks its targets. */
		if ((void *)(icmp + 1) > end || (icmp->icmp6_type >= 133 && icmp->icmp6_type <= 137))
			return true;
	}
	in->plain = true;
	return true;
}

/* As Encap._flow_hash(): flows keep the source port that the daemon gives them. */
static __always_inline __u32 mix(__u64 hi, __u64 lo)
{
	return (hi * 0x9E3779B97F4A7C15 ^ lo * 0xC2B2AE3D27D4EB4F) >> 32;
}

/* The slot of a flow; without ports, that of all flows between the two addresses. */
static __always_inline struct flow *flow_at(enum direction direction, const struct inner *in, __u32 ports)
{
	__u32 slot = mix(in->src_hi * 3 + in->dst_hi + ((__u64)ports << 32), in->src_lo * 3 + in->dst_lo);

	return &flows[direction][slot & (FLOWS - 1)];
}

/* The slot of a sender's port: of all flows in its trains, of which only the first one is seen. */
static __always_inline struct flow *train_at(const struct outer *outer)
{
	return &flows[DECAP][mix(outer->ip.saddr, outer->udp.source) & (FLOWS - 1)];
}

/* Whether a small UDP packet is one of many. The daemon sends them in trains, which cost a fraction. */
static __always_inline bool is_flood(struct flow *flow, const struct inner *in, __u64 now)
{
	if (in->proto != IPPROTO_UDP || in->len > SMALL)
		return false;
	if (now - flow->window > 1000000) {
		flow->window = now;
		flow->packets = 0;
	}
	return ++flow->packets > settings.flood;
}

/* Whether the daemon reads its socket now. */
static __always_inline bool daemon_reads(struct __sk_buff *skb, __be32 peer, __u64 now)
{
	struct bpf_sock_tuple tuple = {
		.ipv4 = {.saddr = peer, .daddr = settings.address, .sport = settings.port, .dport = settings.port},
	};
	struct bpf_sock *socket;

	if (now - settings.attended_ns > settings.hung_ns)
		return false;
	socket = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	bpf_sk_release(socket);
	return true;
}

/* Decide whether a program carries a plain packet; see "Order" and "Life" above. `many`: it is a superframe or an
 * aggregate of a kind that the daemon moves faster. `train`: the slot of its sender's port, or NULL. */
static __always_inline bool may_carry(struct __sk_buff *skb, enum direction direction, const struct inner *in,
				      __be32 peer, bool many, const struct flow *train)
{
	__u64 now = bpf_ktime_get_ns();
	struct flow *flow = flow_at(direction, in, in->ports), *pair = flow_at(direction, in, 0);
	__u64 drained = settings.drained_ns[direction];

	if (now - settings.attended_ns > settings.unattended_ns)
		return false;
	if (direction == ENCAP && is_flood(flow, in, now))
		many = true;
	if (!many && settings.carry_after_ns < drained && flow->left < drained && pair->left < drained &&
	    (!train || train->left < drained))
		return true;
	if (!daemon_reads(skb, peer, now))
		return true;
	flow->left = now;
	return false;
}

/* Leave a packet of a known peer to the daemon for its shape, and those that follow it too. */
static __always_inline int leave(enum direction direction, const struct inner *in)
{
	flow_at(direction, in, in->ports)->left = bpf_ktime_get_ns();
	return TO_DAEMON;
}

static __always_inline void count(__u32 slot, enum direction direction, __u64 frames, __u64 bytes)
{
	struct traffic *found = bpf_map_lookup_elem(&traffic, &slot);

	if (found) {
		found->carried[direction].frames += frames;
		found->carried[direction].bytes += bytes;
	}
}

/* Whether the sender left the packet's checksum to a device (CHECKSUM_PARTIAL). No helper says so, but the one that
 * changes a checksum leaves such a packet alone. It is given the first bytes of the source MAC, which then have to be
 * restored from `eth`, or are replaced; bpf_redirect_neigh() drops what has a group's MAC as its destination. */
static __always_inline bool is_partial(struct __sk_buff *skb, const struct ethhdr *eth)
{
	void *data, *end;

	if (bpf_l4_csum_replace(skb, offsetof(struct ethhdr, h_source), 0, bpf_htons(1), sizeof(__u16)))
		return true;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	return data + ETH_HLEN > end || *(__u16 *)((struct ethhdr *)data)->h_source == *(__u16 *)eth->h_source;
}

/* Whether the kernel would write the checksum over the addresses or ports of the packet, behind the node's firewall. A
 * pod with a packet socket chooses its place (datapath/partial.py). bpf_skb_change_tail() refuses a length that cuts the
 * checksum off: one byte less than as far as the packet's own. If that succeeds, the place is before it, and the daemon
 * refuses what is left of the frame. */
static __always_inline bool hides_addresses(struct __sk_buff *skb, const struct inner *in, const struct ethhdr *eth)
{
	__u32 own_end = ETH_HLEN + in->l4_at;

	if (!is_partial(skb, eth))
		return false;
	if (in->proto == IPPROTO_TCP)
		own_end += offsetof(struct tcphdr, check) + sizeof(__u16);
	else if (in->proto == IPPROTO_UDP)
		own_end += offsetof(struct udphdr, check) + sizeof(__u16);
	else
		return true; /* the daemon knows which others have one */
	return !bpf_skb_change_tail(skb, own_end - 1, 0);
}

/* Write the headers before a frame of `len` bytes, as the daemon's sockets send them. */
static __always_inline void fill_outer(struct outer *outer, const struct inner *in, __be32 peer, __u32 len)
{
	__u32 hash = mix(in->src_hi + in->dst_hi + in->proto + ((__u64)in->ports << 8), in->src_lo + in->dst_lo);
	__u32 port = (__u64)hash * settings.ports_len >> 32;
	bool df = settings.df == DF_SET || (settings.df == DF_INHERIT && in->df);

	if (settings.df == DF_INHERIT && df)
		port += settings.ports_len;
	outer->ip.version = 4;
	outer->ip.ihl = 5;
	outer->ip.tos = settings.tos | (in->tos & settings.tos_bits);
	outer->ip.tot_len = bpf_htons(len + sizeof(*outer));
	outer->ip.id = bpf_get_prandom_u32(); /* routers may fragment it */
	outer->ip.frag_off = df ? bpf_htons(0x4000) : 0;
	outer->ip.ttl = settings.ttl ? settings.ttl : in->ttl ? in->ttl : SOCKET_TTL;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.saddr = settings.address;
	outer->ip.daddr = peer;
	outer->ip.check = ~ip_sum(&outer->ip);
	outer->udp.source = settings.ports[port & (PORTS - 1)];
	outer->udp.dest = settings.port;
	outer->udp.len = bpf_htons(len + sizeof(outer->udp) + sizeof(outer->vxlan));
	outer->vxlan.flags = VXLAN_FLAGS;
	outer->vxlan.vni = settings.vni;
}

SEC("tc")
int vxland_encap(struct __sk_buff *skb)
{
	__u32 len = skb->len, gso_size = skb->gso_size, frames = 1, bytes = len;
	struct inner in = {};
	struct outer outer = {};
	struct ethhdr *eth, inner_eth;
	struct peer *peer;
	void *data, *end;
	__u64 key;

	if (skb->vlan_present || len < ETH_HLEN + sizeof(struct iphdr))
		return TO_DAEMON;
	if (!(skb->protocol == bpf_htons(ETH_P_IPV6) ? pull(skb, V6_HEADERS, &data, &end) :
						       pull(skb, V4_HEADERS, &data, &end)))
		return TO_DAEMON;
	eth = data;
	if ((void *)(eth + 1) > end)
		return TO_DAEMON;
	key = mac_key(eth->h_dest);
	peer = bpf_map_lookup_elem(&peers, &key);
	if (!peer || !parse_inner(eth + 1, end, eth->h_proto, len - ETH_HLEN, &in))
		return TO_DAEMON;
	if (!in.plain)
		return leave(ENCAP, &in);
	if (gso_size) {
		if (!in.headers_len || gso_size < MIN_SEGMENT || in.headers_len + gso_size > peer->most ||
		    len + sizeof(outer) > MAX_DATAGRAM)
			return leave(ENCAP, &in);
		if (in.len > in.headers_len + gso_size) {
			frames = (in.len - in.headers_len + gso_size - 1) / gso_size;
			bytes += (frames - 1) * (ETH_HLEN + in.headers_len);
		}
	} else if (in.len > peer->most) {
		return leave(ENCAP, &in);
	}
	if (!may_carry(skb, ENCAP, &in, peer->address, gso_size && !settings.superframes, NULL))
		return TO_DAEMON;

	inner_eth = *eth;
	if (hides_addresses(skb, &in, &inner_eth))
		return leave(ENCAP, &in);
	fill_outer(&outer, &in, peer->address, len);
	/* ENCAP_L2 counts the inner Ethernet header alone: with the VXLAN header in it, segmentation takes that for
	 * Ethernet. The kernel refuses what is a tunnel's already, as a pod's may be. */
	if (bpf_skb_adjust_room(skb, OVERHEAD, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)) {
		bpf_skb_store_bytes(skb, 0, &inner_eth, ETH_HLEN, 0); /* after is_partial() */
		return leave(ENCAP, &in);
	}
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(outer), &inner_eth, ETH_HLEN, 0))
		return TC_ACT_SHOT; /* cannot happen: the room was just made */
	skb->mark = 0; /* no route is chosen by the mark of an inner packet: the daemon's sockets have none */
	count(0, ENCAP, frames, bytes);
	count(peer->slot, ENCAP, frames, bytes);
	return bpf_redirect_neigh(peer->ifindex, NULL, 0, 0);
}

/* Whether the sum of `len` bytes from `at` on, with `sum`, is that of a correct checksum. Not static, so that the verifier
 * looks at it once and not for each path of its callers. */
__noinline int sums_up(struct __sk_buff *skb, __u64 at, __u64 len, __u64 sum)
{
	__u32 zero = 0, rest = 0;
	__u8 *bytes = bpf_map_lookup_elem(&scratch, &zero);

	if (!bytes)
		return false;
	for (int i = 0; i < CHUNKS && len >= 4; i++) {
		__u64 part = len < CHUNK ? len & ~3 : CHUNK;

		barrier_var(part);
		if (part < 4 || part > CHUNK)
			return false; /* cannot happen: the verifier asks for it */
		if (bpf_skb_load_bytes(skb, at, bytes, part))
			return false;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)bytes, part, 0);
		at += part;
		len -= part;
	}
	if (len >= 4)
		return false;
	barrier_var(len);
	len &= 3;
	if (len && bpf_skb_load_bytes(skb, at, &rest, len))
		return false;
	return fold(sum + rest) == 0xffff;
}

/* Whether the outer UDP checksum may be right: there is none, a device verified it, or the bytes agree. */
static __always_inline bool checksum_is_right(struct __sk_buff *skb, const struct iphdr *ip, const struct udphdr *udp,
					      const struct inner *in)
{
	__u32 at = ETH_HLEN + sizeof(*ip), len = bpf_ntohs(udp->len);
	__u64 sum = (__u64)ip->saddr + ip->daddr + bpf_htons(IPPROTO_UDP) + udp->len;

	if (!udp->check || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return true;
	/* A neighbour on this host leaves checksums to a device, and veth has none. The outer one then has only the sum of
	 * the pseudo-header. Or the inner one has: the outer one was computed for the sum that the inner packet will have
	 * (Documentation/networking/checksum-offloads.rst, LCO). */
	if (udp->check == fold(sum))
		return true;
	if (in->check && sums_up(skb, at, sizeof(*udp) + sizeof(struct vxlanhdr) + ETH_HLEN + in->l4_at,
				 sum + (__u16)~in->check))
		return true;
	return sums_up(skb, at, len, sum);
}

/* Whether the sender of the inner packet lies in a subnet of the VTEP with this slot (source_check: strict). */
static __always_inline bool sends_from_subnet(__u32 slot, const struct inner *in, void *packet, void *end)
{
	struct prefix4 from4 = {.len = 32};
	struct prefix6 from6 = {.len = 128};
	struct ipv6hdr *ip = packet;
	__u32 *owner;

	if (in->version == 4) {
		from4.address = bpf_htonl(in->src_lo);
		owner = bpf_map_lookup_elem(&inner_v4, &from4);
	} else {
		if ((void *)(ip + 1) > end)
			return false;
		from6.address = ip->saddr;
		owner = bpf_map_lookup_elem(&inner_v6, &from6);
	}
	return owner && *owner == slot;
}

/* Set CE in the inner packet. RFC 1624: a wrong checksum stays wrong. Return false if the packet cannot be read. */
static __always_inline bool mark_congestion(const struct inner *in, void *packet, void *end)
{
	struct iphdr *ip4 = packet;
	struct ipv6hdr *ip6 = packet;
	__u32 sum;

	if (in->version == 4) {
		if ((void *)(ip4 + 1) > end)
			return false;
		sum = (__u16)~ip4->check + (__u16)~*(__u16 *)ip4;
		ip4->tos |= ECN_CE;
		ip4->check = ~fold(sum + *(__u16 *)ip4);
	} else {
		if ((void *)(ip6 + 1) > end)
			return false;
		ip6->flow_lbl[0] |= ECN_CE << 4;
	}
	return true;
}

SEC("tc")
int vxland_decap(struct __sk_buff *skb)
{
	__u32 len = skb->len, gso_size = skb->gso_size, frame_len, zero = 0, *source, *device, slot;
	struct prefix4 from = {.len = 32};
	struct inner in = {};
	struct outer *outer;
	struct ethhdr *eth, inner_eth;
	struct flow *train;
	void *data, *end, *packet;
	bool parsed, usual;
	__u8 ecn;

	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || skb->pkt_type != 0 /* PACKET_HOST */ ||
	    len < ETH_HLEN + OVERHEAD + sizeof(struct iphdr))
		return TO_DAEMON;
	/* Most datagrams are not ours: look at the ports before anything is copied. */
	if (!pull(skb, ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr), &data, &end))
		return TO_DAEMON;
	outer = data + ETH_HLEN;
	if ((void *)(&outer->udp + 1) > end || outer->ip.ihl != 5 || outer->ip.protocol != IPPROTO_UDP ||
	    outer->udp.dest != settings.port ||
	    (outer->ip.daddr != settings.address && outer->ip.daddr != settings.public))
		return TO_DAEMON;
	if (!pull(skb, OVERHEAD + V4_HEADERS, &data, &end))
		return TO_DAEMON;
	eth = data + OVERHEAD;
	if ((void *)(eth + 1) > end ||
	    (eth->h_proto == bpf_htons(ETH_P_IPV6) && !pull(skb, OVERHEAD + V6_HEADERS, &data, &end)))
		return TO_DAEMON;
	outer = data + ETH_HLEN;
	eth = (void *)(outer + 1);
	packet = eth + 1;
	if (packet > end)
		return TO_DAEMON;
	from.address = outer->ip.saddr;
	source = bpf_map_lookup_elem(&sources, &from);
	device = bpf_map_lookup_elem(&tap, &zero);
	if (!source || !device || (outer->vxlan.flags & VXLAN_KIND) != VXLAN_FLAGS ||
	    (outer->vxlan.vni & VNI_MASK) != settings.vni || outer->ip.version != 4 || ip_sum(&outer->ip) != 0xffff)
		return TO_DAEMON; /* after the kernel, which drops a wrong IP header */
	train = train_at(outer);
	if (outer->ip.frag_off & bpf_htons(0x3fff)) {
		train->left = bpf_ktime_get_ns(); /* the kernel joins fragments for the daemon */
		return TO_DAEMON;
	}
	slot = *source;
	frame_len = len - OVERHEAD;
	parsed = parse_inner(packet, end, eth->h_proto, frame_len - ETH_HLEN, &in);
	usual = outer->vxlan.flags == VXLAN_FLAGS && outer->vxlan.vni == settings.vni;
	if (gso_size && !(parsed && in.plain && usual))
		train->left = bpf_ktime_get_ns();
	if (!parsed)
		return TO_DAEMON;
	if (!usual) /* a neighbour with group policies sets more bits in some packets of a flow */
		return leave(DECAP, &in);
	if (gso_size && gso_size < MARK_SPAN)
		skb->mark = SEGMENT_MARK | gso_size;
	/* The kernel drops a frame that exceeds the MTU where it enters; the TAP takes one from the daemon. */
	if (!in.plain || (in.len > settings.mtu && !gso_size) || !same_mac(eth->h_dest, settings.mac) ||
	    same_mac(eth->h_source, settings.mac) || bpf_ntohs(outer->ip.tot_len) != len - ETH_HLEN ||
	    bpf_ntohs(outer->udp.len) != len - ETH_HLEN - sizeof(outer->ip))
		return leave(DECAP, &in);
	if (settings.check_source == CHECK_STRICT && !sends_from_subnet(slot, &in, packet, end))
		return leave(DECAP, &in);
	/* RFC 6040 section 4.2: the daemon drops CE over Not-ECT, and copies ECT(1) over ECT(0). */
	ecn = outer->ip.tos & ECN_BITS;
	if (ecn && (ecn == ECN_CE ? !(in.tos & ECN_BITS) : ecn == 1 && (in.tos & ECN_BITS) == 2))
		return leave(DECAP, &in);
	if (gso_size == 0 && !checksum_is_right(skb, &outer->ip, &outer->udp, &in))
		return TO_DAEMON; /* the kernel drops it at the daemon's socket */
	if (!may_carry(skb, DECAP, &in, from.address, gso_size && !settings.aggregates, train))
		return TO_DAEMON;

	inner_eth = *eth;
	if (ecn == ECN_CE && (in.tos & ECN_BITS) != ECN_CE && !mark_congestion(&in, packet, end))
		return TO_DAEMON;
	if (bpf_skb_adjust_room(skb, -(int)OVERHEAD, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return leave(DECAP, &in);
	if (bpf_skb_store_bytes(skb, 0, &inner_eth, ETH_HLEN, 0))
		return TC_ACT_SHOT; /* cannot happen: the header was just there */
	skb->mark = 0; /* that of the outer packet says nothing about the inner one */
	count(0, DECAP, 1, frame_len);
	count(slot, DECAP, 1, frame_len);
	return bpf_redirect(*device, BPF_F_INGRESS);
}

/* The digest of this file, which tests compare: both are in the source tree. */
const char source[] SEC(".vxland.source") = SOURCE;

char _license[] SEC("license") = "Apache-2.0";

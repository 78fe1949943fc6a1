/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Packets between two addresses that the kernel drops, with its reason, for `vxlandctl trace --live`.
 *
 * The tracepoint skb:kfree_skb sees every packet that is dropped anywhere on the machine: before it reaches the TAP,
 * after it left it, on the underlay, and in the namespaces of pods. vxland's own drops are no packets of the kernel's
 * any more, and do not appear here. A packet counts if it is one between the two addresses, or holds one in a VXLAN
 * datagram over IPv4 or IPv6.
 *
 * Offsets in the kernel's structs come from the BTF of the running kernel (CO-RE). bpf_probe_read_kernel() is only for
 * programs under the GPL, which is why this file may be used under it.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#define OF_THE_KERNEL __attribute__((preserve_access_index))

#define BYTES 128	   /* of a packet: headers of both layers */
#define QUEUE 1024	   /* drops that wait for vxlandctl; more are lost */
#define INNER_OVER_V4 50 /* bytes before the inner IP header: IP, UDP, VXLAN, Ethernet */
#define INNER_OVER_V6 70

struct ns_common {
	unsigned int inum;
} OF_THE_KERNEL;

struct net {
	struct ns_common ns;
} OF_THE_KERNEL;

typedef struct {
	struct net *net;
} OF_THE_KERNEL possible_net_t;

struct net_device {
	char name[16];
	possible_net_t nd_net;
} OF_THE_KERNEL;

struct sk_buff {
	struct net_device *dev;
	__u16 network_header;
	unsigned char *head;
} OF_THE_KERNEL;

/* Written by kernel_drops.py before the program is attached. IPv4 addresses fill the first four bytes. */
struct wanted {
	__u8 version;
	__u8 one[16];
	__u8 other[16];
} wanted SEC(".data.wanted");

struct dropped {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 reason;  /* enum skb_drop_reason */
	__u32 ns;      /* inode of the network namespace; 0 without a device */
	__u32 inner_at;
	char device[16];
	__u8 packet[BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, QUEUE);
	__type(value, struct dropped);
} queue SEC(".maps");

static __always_inline bool same(const __u8 *found, const __u8 *address, int len)
{
#pragma unroll
	for (int i = 0; i < 16; i++)
		if (i < len && found[i] != address[i])
			return false;
	return true;
}

static __always_inline bool between(const __u8 *src, const __u8 *dst, int len)
{
	return (same(src, wanted.one, len) && same(dst, wanted.other, len)) ||
	       (same(src, wanted.other, len) && same(dst, wanted.one, len));
}

/* Whether an IP packet goes from one of the two addresses to the other. */
static __always_inline bool is_wanted(const __u8 *ip)
{
	if (ip[0] >> 4 != wanted.version)
		return false;
	return wanted.version == 4 ? between(ip + 12, ip + 16, 4) : between(ip + 8, ip + 24, 16);
}

SEC("tp_btf/kfree_skb")
int vxland_dropped(unsigned long long *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[0];
	struct net_device *dev = skb->dev;
	struct dropped found = {.time_ns = bpf_ktime_get_ns(), .reason = (__u32)ctx[2]};

	/* skb->len shrinks while headers are taken off, so the copy may go beyond the packet. What follows it in memory is
	 * hardly a packet between the two addresses. */
	if (bpf_probe_read_kernel(found.packet, BYTES, skb->head + skb->network_header))
		return 0;
	if (is_wanted(found.packet))
		found.inner_at = 0;
	else if (is_wanted(found.packet + INNER_OVER_V4))
		found.inner_at = INNER_OVER_V4;
	else if (is_wanted(found.packet + INNER_OVER_V6))
		found.inner_at = INNER_OVER_V6;
	else
		return 0;
	if (dev) {
		bpf_probe_read_kernel(found.device, sizeof(found.device), dev->name);
		found.ns = dev->nd_net.net->ns.inum;
	}
	bpf_map_push_elem(&queue, &found, 0);
	return 0;
}

/* The digest of this file, which tests compare: both are in the source tree. */
const char source[] SEC(".vxland.source") = SOURCE;

char _license[] SEC("license") = "GPL";

"""The text of the masquerade and forward rules, against flannel's own: iptables.go, nftables.go, e2e/rules.go."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.firewall.rules import (
    NOTHING,
    ChainKey,
    Chains,
    Family,
    RulesWant,
    iptables_rules,
    nft_objects,
    nft_script,
    nft_shape,
    nft_table,
    nft_text,
    ours,
    restore_text,
)

BOTH = RulesWant(
    networks=(ip_network("10.244.0.0/16"), ip_network("2001:cafe:42::/56")),
    subnets=(ip_network("10.244.1.0/24"), ip_network("2001:cafe:42:1::/64")),
    masquerade=True,
    forward=True,
)

NAT_4 = """\
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""
FILTER_4 = """\
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
NFT_4 = """\
table ip flannel-ipv4 {
	comment "rules for flannel-ipv4"
	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return
		ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return
		ip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return
		ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
	}

	chain forward {
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		ip saddr 10.244.0.0/16 accept
		ip daddr 10.244.0.0/16 accept
	}
}
"""


def in_ipv6(text: str) -> str:
    """The same rules for the IPv6 network, which differ in addresses and names alone."""
    for old, new in (
        ("10.244.0.0/16", "2001:cafe:42::/56"),
        ("10.244.1.0/24", "2001:cafe:42:1::/64"),
        ("224.0.0.0/4", "ff00::/8"),
        ("ipv4", "ipv6"),
        ("table ip ", "table ip6 "),
        ("ip saddr", "ip6 saddr"),
        ("ip daddr", "ip6 daddr"),
    ):
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("want", "text"),
    [
        (BOTH, NAT_4 + FILTER_4),
        (replace(BOTH, forward=False), NAT_4),
        (replace(BOTH, masquerade=False), FILTER_4),
        (replace(BOTH, fully_random=False), NAT_4.replace(" --random-fully", "") + FILTER_4),
        (NOTHING, ""),
    ],
    ids=["all", "masquerade", "forward", "not fully random", "nothing"],
)
def test_a_clean_machine_is_given_flannels_iptables_rules(want: RulesWant, text: str) -> None:
    """Input of iptables-restore and ip6tables-restore, byte for byte: rules, order and comments of flannel."""
    assert restore_text(want, 4, {}) == text
    assert restore_text(want, 6, {}) == in_ipv6(text)


@pytest.mark.parametrize(
    ("want", "text"),
    [(BOTH, NFT_4), (replace(BOTH, fully_random=False), NFT_4.replace(" fully-random", "")), (NOTHING, "")],
    ids=["all", "not fully random", "nothing"],
)
def test_the_nftables_table_is_flannels_but_for_the_fourth_rule(want: RulesWant, text: str) -> None:
    """The text is what `nft list table` prints for flannel's table, except that the last masquerade rule works."""
    assert nft_text(want, 4) == text
    assert nft_text(want, 6) == in_ipv6(text)


def test_each_nftables_chain_exists_only_if_it_is_wanted() -> None:
    """Masquerade and forwarding are separate settings."""
    head, masquerade, forward = NFT_4.partition("\tchain postrtg")[0], "postrtg {", "forward {"
    for want, there, missing in (
        (replace(BOTH, forward=False), masquerade, forward),
        (replace(BOTH, masquerade=False), forward, masquerade),
    ):
        text = nft_text(want, 4)
        assert text.startswith(f"{head}\tchain {there}")
        assert missing not in text


def test_a_family_without_network_has_an_empty_nftables_table_and_no_iptables_rules() -> None:
    """It is as with flannel, whose clean-up stops at the first table that is missing."""
    want = replace(BOTH, networks=BOTH.networks[:1], subnets=BOTH.subnets[:1])
    assert nft_text(want, 6) == 'table ip6 flannel-ipv6 {\n\tcomment "rules for flannel-ipv6"\n}\n'
    assert iptables_rules(want, 6) == {}


def test_a_network_without_own_subnet_is_forwarded_but_not_masqueraded() -> None:
    """Without an own subnet it is unknown which packets stay inside."""
    want = replace(BOTH, subnets=())
    assert restore_text(want, 4, {}) == FILTER_4


def test_an_nftables_script_replaces_the_table_in_one_transaction() -> None:
    """Afterwards the table is `text`, whether it existed or not; "" removes it."""
    removal = "add table ip6 flannel-ipv6\ndelete table ip6 flannel-ipv6\n"
    assert nft_script(6, "") == removal
    assert nft_script(6, nft_text(BOTH, 6)) == removal + in_ipv6(NFT_4)
    assert nft_table(6) == ("ip6", "flannel-ipv6")


def test_nftables_objects_are_those_of_the_text() -> None:
    """Each chain and rule of the text has an object; tests/netns compares them with the real nft's listing."""
    for want in (BOTH, replace(BOTH, forward=False), replace(BOTH, masquerade=False, fully_random=False)):
        lines = [line.strip() for line in nft_text(want, 4).splitlines()]
        kinds = [kind for kind, _ in nft_objects(want, 4)]
        assert kinds.count("chain") == sum(line.startswith("chain") for line in lines)
        assert kinds.count("rule") == sum(line.startswith(("ip ", "meta ")) for line in lines)
    assert nft_objects(NOTHING, 4) == []
    assert nft_shape(NOTHING, 4) == ()


def test_an_nftables_match_on_one_address_is_no_prefix() -> None:
    """A prefix of full length is listed as an address."""
    want = replace(BOTH, subnets=(ip_network("10.244.1.1/32"),))
    rule = nft_objects(want, 4)[3][1]
    assert [statement["match"]["right"] for statement in rule["expr"][:2]] == [
        "10.244.1.1",
        {"prefix": {"addr": "10.244.0.0", "len": 16}},
    ]


JUMP = '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG'
ADMINS_JUMP = "-A POSTROUTING -s 10.244.9.0/24 -j FLANNEL-POSTRTG"
FOREIGN = "-A POSTROUTING -j KUBE-POSTROUTING"


def test_a_jump_keeps_its_place_while_the_chain_is_repaired() -> None:
    """Rules of others before and behind ours stay there."""
    have = {("nat", "POSTROUTING"): (JUMP, FOREIGN), ("nat", "FLANNEL-POSTRTG"): ()}
    assert restore_text(replace(BOTH, forward=False), 4, have) == NAT_4.replace(f"{JUMP}\n", "")


def test_a_second_jump_is_removed() -> None:
    """Both go, and one comes back at the end; an administrator's own jump stays."""
    have = dict(iptables_rules(BOTH, 4))
    have["nat", "POSTROUTING"] = (JUMP, FOREIGN, ADMINS_JUMP, JUMP)
    gone = f"-D{JUMP[2:]}\n"
    assert restore_text(BOTH, 4, have) == NAT_4.replace(JUMP, gone * 2 + JUMP)


def test_a_chain_that_is_not_wanted_goes_with_all_jumps_to_it() -> None:
    """The kernel does not delete a chain that a rule still names."""
    have = dict(iptables_rules(BOTH, 4))
    have["nat", "POSTROUTING"] = (JUMP, FOREIGN, ADMINS_JUMP)
    have["nat", "MINE"] = ("-A MINE -g FLANNEL-POSTRTG", "-A MINE -j ACCEPT")
    assert restore_text(replace(BOTH, masquerade=False), 4, have) == (
        f"*nat\n:FLANNEL-POSTRTG - [0:0]\n-D{JUMP[2:]}\n-D{ADMINS_JUMP[2:]}\n-D MINE -g FLANNEL-POSTRTG\n"
        "-X FLANNEL-POSTRTG\nCOMMIT\n"
    )


def restored(text: str, have: Chains) -> Chains:
    """Apply `iptables-restore --noflush` to `have`, with the real one's refusals."""
    chains = {key: list(rules) for key, rules in have.items()}
    table = ""
    for line in text.splitlines():
        match line.split()[0]:
            case "COMMIT":
                table = ""
            case word if word.startswith("*"):
                table = word[1:]
            case word if word.startswith(":"):
                chains[table, word[1:]] = []
            case "-A":
                chains.setdefault((table, line.split()[1]), []).append(line)
            case "-D":
                chains[table, line.split()[1]].remove(f"-A{line[2:]}")
            case "-X":
                name = line.split()[1]
                assert not chains.pop((table, name))
                assert not any(rule.split()[-1] == name for rules in chains.values() for rule in rules)
    return {key: tuple(rules) for key, rules in chains.items()}


RULES = [rule for rules in iptables_rules(BOTH, 4).values() for rule in rules]
FOREIGN_RULES = [FOREIGN, "-A FORWARD -j DROP", "-A KUBE-FORWARD -j ACCEPT", '-A FORWARD -m comment --comment "x" -j A']


@st.composite
def machines(draw: st.DrawFn) -> Chains:
    """Any mixture of our rules and others', in any order, some twice; with and without our chains."""
    found: dict[ChainKey, list[str]] = {("nat", "POSTROUTING"): [], ("filter", "FORWARD"): []}
    for key in draw(st.lists(st.sampled_from([("nat", "FLANNEL-POSTRTG"), ("filter", "FLANNEL-FWD")]))):
        found[key] = []
    for rule in draw(st.lists(st.sampled_from(RULES + FOREIGN_RULES), max_size=16)):
        name = rule.split()[1]
        table = "nat" if "POST" in name else "filter"
        target = rule.split()[-1]
        if not target.startswith("FLANNEL") or (table, target) in found:  # the kernel refuses a jump to a missing chain
            found.setdefault((table, name), []).append(rule)
    return {key: tuple(rules) for key, rules in found.items()}


def foreign(chains: Chains) -> Chains:
    """Return the chains and rules of others."""
    mine = ours(chains)
    return {
        key: tuple(rule for rule in rules if rule not in mine.get(key, ()))
        for key, rules in chains.items()
        if not key[1].startswith("FLANNEL")
    }


@given(have=machines(), want=st.sampled_from([BOTH, replace(BOTH, forward=False), NOTHING]))
def test_any_rules_become_the_wanted_ones_and_others_stay(have: Chains, want: RulesWant) -> None:
    """One restore makes exactly the wanted rules, in order, and a second one has nothing to do."""
    family: Family = 4
    after = restored(restore_text(want, family, have), have)
    assert ours(after) == iptables_rules(want, family)
    assert foreign(after) == foreign(have)
    assert restore_text(want, family, after) == ""

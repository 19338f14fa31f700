// Package outside tells addresses of the internet from those of a server's own network, which whoever may write a pipeline's files does not reach through it.
//
//	err := outside.Check(address)                              // before it is given to another program
//	dialer := net.Dialer{Control: outside.Control}             // for what this program asks itself
package outside

import (
	"fmt"
	"net/netip"
	"syscall"
)

// inner are networks that netip takes for those of the internet: addresses behind the NAT of a provider or a cluster, of protocols, of benchmarks, of
// no use yet; and those of IPv6 that lead to an address of IPv4 which only a router knows.
var inner = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

// nat64 has the addresses by which hosts without IPv4 reach those of IPv4, which are the last four bytes.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Check refuses the addresses of this machine and of its network.
func Check(ip netip.Addr) error {
	at := ip.Unmap().WithZone("")
	if nat64.Contains(at) {
		b := at.As16()
		at = netip.AddrFrom4([4]byte(b[12:]))
	}
	own := !at.IsGlobalUnicast() || at.IsPrivate()
	for _, p := range inner {
		own = own || p.Contains(at)
	}
	if own {
		return fmt.Errorf("%s is an address of the server's own network", ip.Unmap())
	}
	return nil
}

// Control is that of a [net.Dialer] which connects to no address of this machine and of its network.
func Control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return Check(at.Addr())
}

package realnode

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// devicePrefix and eight hexadecimal digits of the data directory's hash name the
// machine's end of the link; 15 characters are the kernel's limit.
const devicePrefix = "keel-"

// pools are tried in this order. Private addresses (RFC 1918) that are rarely
// used: not those of Docker, libvirt, Kubernetes or home routers.
var pools = []netip.Prefix{
	netip.MustParsePrefix("10.213.0.0/16"),
	netip.MustParsePrefix("172.29.0.0/16"),
	netip.MustParsePrefix("192.168.213.0/24"),
}

// Choose returns the link of the node with that state directory: always the same
// device, and the same addresses as long as nobody else has taken them.
func Choose(dir string) (Link, error) {
	hash := sha256.Sum256([]byte(dir))
	device := devicePrefix + hex.EncodeToString(hash[:4])
	own := -1 // what an instance that was just killed has left for a moment is ours to reuse
	if link, err := netlink.LinkByName(device); err == nil {
		own = link.Attrs().Index
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return Link{}, fmt.Errorf("list the machine's routes: %w", err)
	}
	var taken []netip.Prefix
	for _, route := range routes {
		if route.Dst == nil || route.LinkIndex == own {
			continue
		}
		addr, ok := netip.AddrFromSlice(route.Dst.IP.To4())
		if ones, _ := route.Dst.Mask.Size(); ok && ones > 0 { // 0: the default route
			taken = append(taken, netip.PrefixFrom(addr, ones))
		}
	}
	return choose(device, binary.BigEndian.Uint32(hash[4:8]), taken)
}

// choose takes the first four addresses from start on that overlap with nothing
// that is taken.
func choose(device string, start uint32, taken []netip.Prefix) (Link, error) {
	for _, pool := range pools {
		blocks := uint32(1) << (30 - pool.Bits())
		base := pool.Addr().As4()
		first := binary.BigEndian.Uint32(base[:])
		for i := range blocks {
			number := first + (start+i)%blocks*4
			subnet := netip.PrefixFrom(address(number), 30)
			if !overlaps(subnet, taken) {
				return Link{Device: device, Subnet: subnet, Machine: address(number + 1), Node: address(number + 2)}, nil
			}
		}
	}
	return Link{}, fmt.Errorf("no free addresses for the node: routes of this machine cover %v", pools)
}

func address(number uint32) netip.Addr {
	var bytes [4]byte
	binary.BigEndian.PutUint32(bytes[:], number)
	return netip.AddrFrom4(bytes)
}

func overlaps(subnet netip.Prefix, taken []netip.Prefix) bool {
	for _, other := range taken {
		if subnet.Overlaps(other) {
			return true
		}
	}
	return false
}

package realnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// uplink is the node's end of the link.
const uplink = "eth0"

// connect makes the link and the node's side of routing. Nothing of it outlives
// the node's network namespace.
func connect(link Link, machine netns.NsHandle) error {
	outside, err := netlink.NewHandleAt(machine)
	if err != nil {
		return fmt.Errorf("enter the machine's network: %w", err)
	}
	defer outside.Close()
	if old, err := outside.LinkByName(link.Device); err == nil {
		if err := outside.LinkDel(old); err != nil {
			return fmt.Errorf("remove %s of the last run: %w", link.Device, err)
		}
	}
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("own network: %w", err)
	}
	defer func() { _ = own.Close() }()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link.Device}, PeerName: uplink, PeerNamespace: netlink.NsFd(own)}
	if err := outside.LinkAdd(pair); err != nil {
		return fmt.Errorf("make device %s: %w", link.Device, err)
	}
	theirs, err := outside.LinkByName(link.Device)
	if err != nil {
		return fmt.Errorf("device %s: %w", link.Device, err)
	}
	if err := outside.AddrAdd(theirs, ipv4(link.Machine, link.Subnet.Bits())); err != nil {
		return fmt.Errorf("address %s on %s: %w", link.Machine, link.Device, err)
	}
	if err := outside.LinkSetUp(theirs); err != nil {
		return fmt.Errorf("bring up %s: %w", link.Device, err)
	}
	if err := setUp("lo"); err != nil {
		return err
	}
	ours, err := netlink.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("device %s: %w", uplink, err)
	}
	if err := netlink.AddrAdd(ours, ipv4(link.Node, link.Subnet.Bits())); err != nil {
		return fmt.Errorf("address %s on %s: %w", link.Node, uplink, err)
	}
	if err := setUp(uplink); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: ours.Attrs().Index, Gw: link.Machine.AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return route()
}

// route lets the node route between its pods and to the outside, where their
// addresses are not known: they go under the node's.
func route() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("let the node route: %w", err)
	}
	out, err := exec.Command("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", PodCIDR, "-o", uplink, "-j", "MASQUERADE").CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables: %w: %s", err, out)
	}
	return nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

func ipv4(addr netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
}

// publish listens on the node's address and passes each connection on to the same
// port of the machine's 127.0.0.1, until ctx ends.
func publish(ctx context.Context, node netip.Addr, machine netns.NsHandle, port int, log *slog.Logger) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(node.String(), strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("publish port %d: %w", port, err)
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		for {
			inner, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				log.Warn("published port", "port", port, "err", err)
				time.Sleep(100 * time.Millisecond) // out of file descriptors: others may close theirs
				continue
			}
			go func() {
				defer inner.Close()
				outer, err := dial(ctx, machine, port)
				if err != nil {
					log.Debug("published port", "port", port, "err", err)
					return
				}
				defer outer.Close()
				splice(inner, outer)
			}()
		}
	}()
	return nil
}

// dial connects to a port of the machine's 127.0.0.1. A socket belongs for ever to
// the network that its thread was in when it was made.
func dial(ctx context.Context, machine netns.NsHandle, port int) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	type result struct {
		conn net.Conn
		err  error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(machine), unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("enter the machine's network: %w", err)}
			return
		}
		conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		made <- result{conn, err}
	}()
	r := <-made
	return r.conn, r.err
}

// splice copies both ways until both have ended; the end of one way is passed on.
func splice(a, b net.Conn) {
	one := make(chan struct{})
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // an end is an end, however it came
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}
	go func() {
		pass(a, b)
		close(one)
	}()
	pass(b, a)
	<-one
}

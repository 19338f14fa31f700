package outside

import (
	"net"
	"net/netip"
	"testing"
)

func TestCheck(t *testing.T) {
	for ip, want := range map[string]bool{
		"8.8.8.8": true, "100.63.255.255": true, "100.128.0.1": true, "198.20.0.1": true, "2606:4700::1": true, "::ffff:8.8.8.8": true, "64:ff9b::8.8.8.8": true,
		"127.0.0.1": false, "10.0.0.1": false, "172.31.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false, "0.1.2.3": false,
		"100.64.0.1": false, "100.127.255.255": false, "192.0.0.192": false, "198.18.0.1": false, "198.19.255.255": false, "224.0.0.1": false, "240.0.0.1": false,
		"255.255.255.255": false, "::": false, "::1": false, "::10.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:100.64.0.1": false, "fd00:ec2::254": false, "fe80::1%eth0": false,
		"fec0::1": false, "ff02::1": false, "64:ff9b::10.0.0.1": false, "64:ff9b::100.64.0.1": false, "64:ff9b:1::8.8.8.8": false, "2002:a00:1::": false, "2001:0:1::": false,
	} {
		if err := Check(netip.MustParseAddr(ip)); (err == nil) != want {
			t.Errorf("%s: %v", ip, err)
		}
	}
}

func TestControl(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := (&net.Dialer{Control: Control}).Dial("tcp", l.Addr().String())
	if err == nil {
		conn.Close()
		t.Error("this machine is reached")
	}
}

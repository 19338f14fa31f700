package realnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const forwarding = "/proc/sys/net/ipv4/ip_forward"

// Outbound lets the node reach what this machine reaches: it turns IPv4 forwarding
// on and has the machine's firewall forward for the link, and the machine's
// address stand for the node's. It is called in the machine's own network, after
// [NoOutbound]. dir is the state directory of the node.
func Outbound(dir string, link Link) error {
	before, err := os.ReadFile(forwarding)
	if err != nil {
		return fmt.Errorf("outbound: %w", err)
	}
	if strings.TrimSpace(string(before)) == "0" {
		if err := os.WriteFile(forwardingWas(dir), before, 0o600); err != nil {
			return fmt.Errorf("outbound: %w", err)
		}
		if err := os.WriteFile(forwarding, []byte("1"), 0); err != nil {
			return fmt.Errorf("outbound: let this machine route: %w", err)
		}
	}
	for _, rule := range outboundRules(link) {
		if out, err := exec.Command(find("iptables"), append([]string{"-w"}, rule...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("outbound: iptables %s: %w: %s", strings.Join(rule, " "), err, out)
		}
	}
	return nil
}

// outboundRules carry the device's name as a comment, by which NoOutbound finds
// them. They come first: other rules may drop what is forwarded.
func outboundRules(link Link) [][]string {
	comment := []string{"-m", "comment", "--comment", link.Device}
	rules := [][]string{
		{"-t", "nat", "-I", "POSTROUTING", "-s", link.Subnet.String(), "!", "-o", link.Device, "-j", "MASQUERADE"},
		{"-t", "filter", "-I", "FORWARD", "-i", link.Device, "-j", "ACCEPT"},
		{"-t", "filter", "-I", "FORWARD", "-o", link.Device, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
	}
	for i := range rules {
		rules[i] = append(rules[i], comment...)
	}
	return rules
}

// forwardingWas is a file that says that Outbound turned forwarding on.
func forwardingWas(dir string) string { return filepath.Join(dir, "forwarding-was-off") }

// NoOutbound takes back what [Outbound] did, in this run or in one that was killed.
func NoOutbound(dir string, link Link) error {
	var errs []error
	for _, table := range []string{"nat", "filter"} {
		save := find("iptables-save")
		if save == "" {
			return nil // so nothing was done
		}
		saved, err := exec.Command(save, "-t", table).Output()
		if err != nil {
			return fmt.Errorf("outbound: list the rules of table %s: %w", table, err)
		}
		for line := range strings.Lines(string(saved)) {
			args := strings.Fields(line)
			if len(args) == 0 || args[0] != "-A" || !strings.Contains(line, "--comment "+link.Device) {
				continue
			}
			args[0] = "-D"
			if out, err := exec.Command(find("iptables"), append([]string{"-w", "-t", table}, args...)...).CombinedOutput(); err != nil {
				errs = append(errs, fmt.Errorf("outbound: remove a rule: %w: %s", err, out))
			}
		}
	}
	if _, err := os.Stat(forwardingWas(dir)); errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.WriteFile(forwarding, []byte("0"), 0), os.Remove(forwardingWas(dir)))...)
}

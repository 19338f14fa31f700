package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the addresses of the proxies in front of a server, which say for whom they ask. The zero value is none: nobody's headers are believed.
type Proxies []netip.Prefix

// ParseProxies reads addresses and networks, as 10.0.0.0/8 or 192.0.2.7.
func ParseProxies(texts []string) (Proxies, error) {
	var out Proxies
	for _, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var ip netip.Addr
			if ip, err = netip.ParseAddr(text); err == nil {
				p = netip.PrefixFrom(ip.WithZone(""), ip.BitLen())
			}
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is neither an address nor a network: it takes 10.0.0.0/8 or 192.0.2.7", text)
		case p.Bits() == 0:
			return nil, fmt.Errorf("%s is everybody, whose headers would be believed: name the network of the proxies", text)
		case p.Addr().Is4In6():
			return nil, fmt.Errorf("%s: write it as an IPv4 network", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (p Proxies) has(ip netip.Addr) bool {
	for _, network := range p {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

type httpsKey struct{}

// ByHTTPS tells whether a proxy in front has said that its client came by https.
func ByHTTPS(ctx context.Context) bool { return ctx.Value(httpsKey{}) != nil }

// How a proxy says for whom it asks. Each adds the address of its own client at the end of the first.
const forwardedFor, forwardedProto = "X-Forwarded-For", "X-Forwarded-Proto"

// Front is in front of everything that a server serves. Of a request that comes from one of the proxies RemoteAddr becomes the address of the
// client: the last one in X-Forwarded-For that is none of the proxies. What others say in these headers is taken away.
func (p Proxies) Front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said, proto := r.Header.Values(forwardedFor), r.Header.Values(forwardedProto)
		if len(said)+len(proto) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		ctx := r.Context()
		peer, known := addressIn(r.RemoteAddr)
		trusted := known && p.has(peer)
		if trusted && len(proto) > 0 && strings.EqualFold(lastOf(proto[len(proto)-1]), "https") {
			ctx = context.WithValue(ctx, httpsKey{}, true)
		}
		r = r.WithContext(ctx)
		r.Header = r.Header.Clone()
		r.Header.Del(forwardedFor)
		r.Header.Del(forwardedProto)
		if trusted {
			r.RemoteAddr = net.JoinHostPort(p.client(peer, said).String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}

// client gives the address for which a proxy asks. What is before something that is no address may be made up, and does not count.
func (p Proxies) client(peer netip.Addr, said []string) netip.Addr {
	rest := strings.Join(said, ",")
	for rest != "" {
		last := lastOf(rest)
		rest = strings.TrimSuffix(rest[:strings.LastIndexByte(rest, ',')+1], ",")
		ip, ok := addressIn(last)
		if !ok {
			break
		}
		if peer = ip; !p.has(ip) {
			break
		}
	}
	return peer
}

// lastOf is the last of a list with commas.
func lastOf(list string) string {
	return strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
}

// addressIn reads an address with or without a port.
func addressIn(text string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return ip.Unmap().WithZone(""), err == nil
}

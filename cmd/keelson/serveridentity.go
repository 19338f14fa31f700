package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/web"
)

// clientSecretVariable is the environment variable with the secret that this server has at the OpenID provider. It is no flag: others see these.
const clientSecretVariable = "KEELSON_OIDC_CLIENT_SECRET"

// proxiesVariable is the environment variable with the addresses of the proxies in front, where the flag does not name them.
const proxiesVariable = "KEELSON_TRUSTED_PROXIES"

// serverIdentity says how people log in at keelson server. The flags are named as those of kube-apiserver, so that one person has one name.
type serverIdentity struct {
	url                           string // of the dashboard, as browsers reach it
	issuer, client                string
	usernameClaim, usernamePrefix string
	groupsClaim, groupsPrefix     string
	scopes, allowed               []string
	secretFile                    string
	trusted                       []string // proxies in front, as addresses and networks
	proxies                       web.Proxies
}

func (o *serverIdentity) flags(f *pflag.FlagSet) {
	f.StringVar(&o.url, "url", "", "the `URL` at which browsers reach --listen, as https://keelson.example.com; with https the cookies are for https only")
	f.StringSliceVar(&o.trusted, "trusted-proxies", nil, "believe what these proxies in front of --listen and --ci say of their clients (X-Forwarded-For, X-Forwarded-Proto): "+
		"their `addresses`, as 10.0.0.0/8 (env "+proxiesVariable+"; default: nobody)")
	f.StringVar(&o.issuer, "oidc-issuer-url", "", "let people log in at this OpenID provider: its `URL`; needs --url, and the provider has to know URL"+identity.CallbackPath)
	f.StringVar(&o.client, "oidc-client-id", "", "what this server is called there")
	f.StringVar(&o.secretFile, "oidc-client-secret-file", "", "a `file` with the server's secret there (default: "+clientSecretVariable+"; none of both: a public client)")
	f.StringVar(&o.usernameClaim, "oidc-username-claim", "email", "the `claim` that is a person's name")
	f.StringVar(&o.usernamePrefix, "oidc-username-prefix", "", "put before these names, as the cluster's API server does")
	f.StringVar(&o.groupsClaim, "oidc-groups-claim", "groups", "the `claim` with a person's groups")
	f.StringVar(&o.groupsPrefix, "oidc-groups-prefix", "", "put before these groups")
	f.StringSliceVar(&o.scopes, "oidc-scopes", []string{"profile", "email"}, "what the provider is asked for besides openid; some need groups")
	f.StringSliceVar(&o.allowed, "oidc-allowed-groups", nil, "let only people in who are in one of these groups, without the prefix (default: all whom the provider knows)")
}

// check completes the options and says what is wrong with them. listens says whether the dashboard is served.
func (o *serverIdentity) check(listens bool) error {
	if o.trusted == nil {
		o.trusted = strings.Split(os.Getenv(proxiesVariable), ",")
	}
	var err error
	if o.proxies, err = web.ParseProxies(o.trusted); err != nil {
		return usagef("--trusted-proxies (%s): %v", proxiesVariable, err)
	}
	if o.url != "" {
		u, err := url.Parse(o.url)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
			return usagef("--url %q: it is the URL at which browsers reach --listen, as https://keelson.example.com", o.url)
		}
		o.url = u.Scheme + "://" + u.Host
	}
	switch {
	case o.issuer == "" && o.client == "":
		return nil
	case o.issuer == "" || o.client == "":
		return usagef("--oidc-issuer-url and --oidc-client-id need each other")
	case o.url == "" || !listens:
		return usagef("--oidc-issuer-url needs --listen and --url: the provider sends browsers back there")
	}
	if u, err := url.Parse(o.issuer); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return usagef("--oidc-issuer-url %q: it is the URL of an OpenID provider, below which is .well-known/openid-configuration", o.issuer)
	}
	if inClear(o.issuer) {
		return usagef("--oidc-issuer-url %q: over http others could say who somebody is; it takes https", o.issuer)
	}
	return nil
}

// provider gives the OpenID provider; nil: there is none.
func (o *serverIdentity) provider() (*identity.Provider, error) {
	if o.issuer == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	secret := os.Getenv(clientSecretVariable)
	if o.secretFile != "" {
		text, err := os.ReadFile(o.secretFile)
		if err != nil {
			return nil, fmt.Errorf("read the secret of --oidc-client-secret-file: %w", err)
		}
		secret = strings.TrimRight(string(text), "\r\n")
	}
	return &identity.Provider{
		Issuer: o.issuer, ClientID: o.client, ClientSecret: secret, URL: o.url, Scopes: o.scopes, Allowed: o.allowed,
		UsernameClaim: o.usernameClaim, UsernamePrefix: o.usernamePrefix, GroupsClaim: o.groupsClaim, GroupsPrefix: o.groupsPrefix,
	}, nil
}

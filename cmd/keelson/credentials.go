package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// login is what is kept of a login at a server.
type login struct {
	Token   string    `json:"token"`
	Name    string    `json:"name"`              // the token's
	Person  string    `json:"person"`            // whose it is
	Expires time.Time `json:"expires,omitempty"` // zero: not known
}

// logins are those of this user, by the URLs of servers.
type logins struct {
	Servers map[string]login `json:"servers"`
	Last    string           `json:"last,omitempty"` // the server of the last login
}

// loginsFile is where they are kept: keelson/credentials.json in the user's configuration directory.
func loginsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", hintf(fmt.Errorf("find the user's configuration directory: %w", err), "set XDG_CONFIG_HOME, or %s instead of logging in", tokenVariable)
	}
	return filepath.Join(dir, "keelson", "credentials.json"), nil
}

func readLogins() (logins, error) {
	all := logins{Servers: map[string]login{}}
	file, err := loginsFile()
	if err != nil {
		return all, err
	}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = hintf(errors.New("others can read the tokens in it"), "chmod 600 %s", file)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return all, fmt.Errorf("read logins: %s: %w", file, err)
	}
	if all.Servers == nil {
		all.Servers = map[string]login{}
	}
	return all, nil
}

// writeLogins replaces the file in one step; only its owner may read it.
func writeLogins(all logins) error {
	file, err := loginsFile()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("write logins: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write logins: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".credentials-*") // 0600
	if err != nil {
		return fmt.Errorf("write logins: %w", err)
	}
	defer os.Remove(f.Name()) // without effect once it was renamed
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write logins: %w", err)
	}
	return nil
}

// serverURL makes the URL of a server of what a person has typed: https, unless it says http.
func serverURL(text string) (string, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", usagef("server %q: it is the URL of a keelson server, as https://keelson.example.com", text)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// inClear tells whether what is sent to a server can be read on the way.
func inClear(server string) bool {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" {
		return false
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !ip.IsLoopback())
}

// named gives the server that is meant; empty: the instance.
func (g *global) named() (string, error) {
	server := g.server
	if server == "" {
		server = os.Getenv(serverVariable)
	}
	if server == "" {
		return "", nil
	}
	return serverURL(server)
}

// asksServer tells whether a server is named: then it is asked, and nothing on this machine is read or changed in its place.
func (g *global) asksServer() bool { return g.server != "" || os.Getenv(serverVariable) != "" }

// onlyHere refuses --server for what is done on this machine alone.
func (g *global) onlyHere() error {
	if g.server != "" {
		return usagef("this command works on the database and the keys of this machine, so --server is not for it: run it where the instance is, with --data or %s", databaseVariable)
	}
	return nil
}

// hostOf is a server's name for people.
func hostOf(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	if host, port, err := net.SplitHostPort(u.Host); err == nil && (port == "443" || port == "80") {
		return host
	}
	return u.Host
}

package run

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	gitcmd "keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline/outside"
	"keelson.dev/keelson/internal/redact"
)

const (
	// maxSubmodules and maxSubmoduleDepth bound what one commit can make us fetch.
	maxSubmodules     = 200
	maxSubmoduleDepth = 10
)

// submodules fetches the submodules of a job's clone. On a server the commit's author chooses their addresses, and the server is who asks: so
// the Git host is asked as the job (it would let anybody on this machine read), nothing else of the server's network is asked at all, and
// nobody can send us elsewhere.
type submodules struct {
	c     *clone
	host  *url.URL // the Git host; nil: this is a person's own machine, where any address may be asked
	token string   // the job's
	args  []string // of git submodule update
	count int
}

// update fetches the submodules of the repository in a directory, and with deeper theirs.
func (s *submodules) update(ctx context.Context, dir string, deeper bool, depth int) error {
	if depth > maxSubmoduleDepth {
		return fmt.Errorf("submodules: a commit has them at most %d deep", maxSubmoduleDepth)
	}
	if _, err := s.c.git(ctx, dir, "submodule", "--quiet", "init"); err != nil {
		return err
	}
	settings, err := s.c.git(ctx, dir, "config", "--local", "--list", "--null")
	if err != nil {
		return err
	}
	config := [][2]string{{"fetch.recurseSubmodules", "false"}}
	if s.host != nil {
		config = append(config, [2]string{"http.followRedirects", "false"})
		if s.token != "" {
			login := base64.StdEncoding.EncodeToString([]byte("gitlab-ci-token:" + s.token))
			config = append(config, [2]string{"http." + s.host.Scheme + "://" + s.host.Host + "/.extraHeader", "Authorization: Basic " + login})
		}
	}
	any := false
	for setting := range strings.SplitSeq(settings, "\x00") {
		key, address, _ := strings.Cut(setting, "\n")
		if !strings.HasPrefix(key, "submodule.") || !strings.HasSuffix(key, ".url") {
			continue
		}
		any = true
		if s.count++; s.count > maxSubmodules {
			return fmt.Errorf("submodules: a commit has at most %d in all", maxSubmodules)
		}
		if s.host == nil {
			continue
		}
		pin, err := s.check(ctx, address)
		if err != nil {
			return fmt.Errorf("submodule %s at %s: %w", strings.TrimSuffix(strings.TrimPrefix(key, "submodule."), ".url"), redact.URL(address), err)
		}
		if pin != "" {
			config = append(config, [2]string{"http.curloptResolve", pin})
		}
	}
	if !any {
		return nil
	}
	if err := s.run(ctx, dir, config); err != nil || !deeper {
		return err
	}
	paths, err := s.paths(ctx, dir)
	for _, path := range paths {
		if err == nil {
			err = s.update(ctx, filepath.Join(dir, path), deeper, depth+1)
		}
	}
	return err
}

// plainPath is what the path of a repository on the Git host is made of: whatever reads such an address understands the same.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._-]+$`)

// hostName is a name that is no address in disguise (2130706433, 0x7f.1): its last part begins with a letter.
var hostName = regexp.MustCompile(`^([A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9-]*\.?$`)

// check tells whether an address may be asked, and pins the name of its host to the addresses that it has now ("" needs no pin).
func (s *submodules) check(ctx context.Context, address string) (pin string, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return "", errors.New("only http and https addresses are fetched")
	}
	if u.Scheme == s.host.Scheme && u.Host == s.host.Host {
		if s.token == "" || !plainPath.MatchString(u.EscapedPath()) || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(address, "#") {
			return "", errors.New("a repository of this Git host is fetched with the token of the job: name it without a user, a query and special characters")
		}
		return "", nil
	}
	name := u.Hostname()
	if ip, err := netip.ParseAddr(name); err == nil {
		return "", outside.Check(ip)
	}
	if !hostName.MatchString(name) {
		return "", errors.New("this is no host's name")
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return "", err
	}
	var addresses []string
	for _, ip := range found {
		if err := outside.Check(ip); err != nil {
			return "", err
		}
		text := ip.Unmap().WithZone("").String()
		if strings.Contains(text, ":") {
			text = "[" + text + "]"
		}
		addresses = append(addresses, text)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return name + ":" + port + ":" + strings.Join(addresses, ","), nil
}

// run fetches and checks out the submodules of one repository.
func (s *submodules) run(ctx context.Context, dir string, config [][2]string) error {
	cmd := gitcmd.Process(ctx, slices.Concat(throwaway, config), s.args...)
	if s.host != nil { // a proxy would reach that network for whoever asks, and find the addresses itself
		cmd.Env = slices.DeleteFunc(cmd.Env, func(kv string) bool {
			name, _, _ := strings.Cut(kv, "=")
			return strings.HasSuffix(strings.ToLower(name), "_proxy")
		})
	}
	_, err := s.c.runGit(ctx, cmd, dir, "submodule")
	if err != nil && s.host != nil && strings.Contains(err.Error(), "could not read Username for '"+s.host.Scheme+"://"+s.host.Host+"'") {
		return fmt.Errorf("a submodule is not for this project's jobs: its Project has to name this one in readableBy: %w", err)
	}
	return err
}

// paths gives where the submodules of a repository have been checked out.
func (s *submodules) paths(ctx context.Context, dir string) ([]string, error) {
	listed, err := s.c.git(ctx, dir, "config", "--blob=HEAD:.gitmodules", "--list", "--null")
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("submodules: %w", err)
	}
	defer root.Close()
	var paths []string
	for setting := range strings.SplitSeq(listed, "\x00") {
		key, path, _ := strings.Cut(setting, "\n")
		if !strings.HasPrefix(key, "submodule.") || !strings.HasSuffix(key, ".path") || !filepath.IsLocal(path) {
			continue
		}
		// Only git writes such a file: a commit cannot hold one.
		if info, err := root.Lstat(filepath.Join(path, ".git")); err == nil && info.Mode().IsRegular() && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// withoutUser is a URL without what it has of its user, and everything else as it is.
func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

// originSection is git's configuration of the remote origin. It is written by us: on the command line others could read the token in it.
func originSection(address string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(address)
	return "[remote \"origin\"]\n\turl = \"" + quoted + "\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
}

// addOrigin names the remote origin of a new repository, without a user: addresses of submodules that are relative to it have none either.
func addOrigin(dir, address string) error {
	return editConfig(dir, func(text []byte) []byte { return append(text, originSection(withoutUser(address))...) })
}

// nameUser adds the user to origin, for the job.
func nameUser(dir, address string) error {
	return editConfig(dir, func(text []byte) []byte {
		return bytes.Replace(text, []byte(originSection(withoutUser(address))), []byte(originSection(address)), 1)
	})
}

func editConfig(dir string, edit func([]byte) []byte) error {
	file := filepath.Join(dir, ".git", "config")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, edit(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("get the sources: name their origin: %w", err)
	}
	return nil
}

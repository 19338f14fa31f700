package worktree

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// place is where a repository is, taken apart: scheme "" is a path on this machine.
type place struct {
	scheme string // https, http, ssh; scp for git@host:path
	user   string // as it stands before the host, with its "@"
	host   string // with its port
	path   string // without slashes around it and without ".git"
}

// parsePlace reads what git takes as the URL of a remote.
func parsePlace(text string) place {
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		p := place{scheme: u.Scheme, host: u.Host, path: cleanProject(u.Path)}
		if u.User != nil {
			p.user = u.User.String() + "@"
		}
		return p
	}
	if before, after, ok := strings.Cut(text, ":"); ok && !strings.Contains(before, "/") && before != "" && len(before) > 1 { // C:\ is no host
		user, host, ok := strings.Cut(before, "@")
		if !ok {
			user, host = "", before
		} else {
			user += "@"
		}
		return place{scheme: "scp", user: user, host: host, path: cleanProject(after)}
	}
	return place{path: strings.TrimPrefix(text, "file://")}
}

func cleanProject(p string) string { return strings.TrimSuffix(strings.Trim(p, "/"), ".git") }

// url is the address of another project on the same host; empty: there is no host.
func (p place) url(project string) string {
	switch p.scheme {
	case "":
		return ""
	case "scp":
		return p.user + p.host + ":" + project + ".git"
	}
	return p.scheme + "://" + p.user + p.host + "/" + project + ".git"
}

// web is the base of the host's pages.
func (p place) web() string {
	switch p.scheme {
	case "":
		return "https://localhost"
	case "http", "https":
		return p.scheme + "://" + p.host
	}
	host := p.host
	if u, err := url.Parse("ssh://" + host); err == nil {
		host = u.Hostname() // the port is that of ssh
	}
	return "https://" + host
}

// origin is where the working tree comes from; without a remote it is a path.
func (r *Repository) origin() place {
	if name := r.remoteName(); name != "" {
		return parsePlace(r.config["remote."+name+".url"])
	}
	return place{}
}

// Scope says whose artifacts and caches those of its pipelines are: the project's path on its host. Without a host it is the
// repository of this machine, which all its working trees share, or the folder where there is none.
func (r *Repository) Scope() string {
	from := r.origin()
	if _, host, _ := strings.Cut(from.web(), "://"); from.scheme != "" {
		return host + "/" + from.path
	}
	dir := r.root
	if r.hasGit {
		dir = r.common
	}
	sum := sha256.Sum256([]byte(dir))
	return "local/" + filepath.Base(strings.TrimSuffix(dir, "/.git")) + "-" + hex.EncodeToString(sum[:8])
}

// project says what the remote's address tells about the project, and the base URL of its server.
func (r *Repository) project() (p pipeline.Project, server string) {
	from := r.origin()
	p = pipeline.Project{ID: 1, Path: from.path, Visibility: "private"}
	if from.scheme == "" {
		name := path.Base(filepath.ToSlash(r.root))
		if from.path != "" {
			name = strings.TrimSuffix(path.Base(filepath.ToSlash(from.path)), ".git")
		}
		p.Path = "local/" + name
	}
	server = from.web()
	p.Title = path.Base(p.Path)
	p.URL = server + "/" + p.Path
	p.CloneURL = p.URL + ".git"
	if u, err := url.Parse(server); err == nil && from.scheme != "" {
		p.Registry = "registry." + u.Hostname() // GitLab's own habit
	}
	return p, server
}

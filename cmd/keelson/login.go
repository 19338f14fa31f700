package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keelson.dev/keelson/internal/identity"
)

type loginOptions struct {
	user          string
	passwordStdin bool
	tokenStdin    bool
	web           bool
	days          int
}

func loginCommand(g *global) *cobra.Command {
	var opts loginOptions
	cmd := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Log in at a server, for the commands that ask it",
		Long: `Login gets an access token from a keelson server and keeps it in the user's configuration directory, readable by its owner only.
Commands with --server SERVER (or KEELSON_SERVER) use it, and so do those where there is no instance on this machine.
Without SERVER it is the one of --server, else the instance.

With --web, and where the server has an OpenID provider, login shows a code and an address: whoever opens that in a browser, logs in there and lets
the code in gives this terminal its token. Else login asks for a user and a password.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if opts.web && (opts.user != "" || opts.passwordStdin || opts.tokenStdin) {
				return usagef("--web is instead of a user, a password or a token")
			}
			if opts.passwordStdin && (opts.user == "" || opts.tokenStdin) {
				return usagef("--password-stdin needs --user, and is instead of --token-stdin")
			}
			return runLogin(cmd.Context(), g, strings.Join(a, ""), opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.user, "user", "", "the `name` of the user")
	f.BoolVar(&opts.passwordStdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&opts.tokenStdin, "token-stdin", false, "keep an access token that is read from standard input")
	f.BoolVar(&opts.web, "web", false, "log in with a browser")
	f.IntVar(&opts.days, "days", 0, "how many `days` the token lasts, with a password (default 30)")
	return cmd
}

func logoutCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "logout [SERVER]", Short: "Remove the token that keelson login has got, here and at the server", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runLogout(cmd.Context(), g, strings.Join(a, "")) },
	}
}

// at is a server that is talked to without a token of this user's, or with one that is given.
type at struct {
	client *http.Client
	server string
}

func newAt(server string) at {
	return at{server: server, client: &http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // what is sent is for this server
	}}
}

// answered is what an answer says besides its body. Status 0: there was none.
type answered struct {
	status  int
	cookies []*http.Cookie
}

// call sends a request and decodes the answer; the status is given also with an error.
func (a at) call(ctx context.Context, method, path string, headers map[string]string, in, out any) (answered, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return answered{}, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.server+path, body)
	if err != nil {
		return answered{}, err
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return answered{}, hintf(err, "%s has to be the address of a keelson server", a.server)
	}
	defer res.Body.Close()
	was := answered{res.StatusCode, res.Cookies()}
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return was, err
	}
	var refused struct{ Error string }
	if res.StatusCode >= http.StatusMultipleChoices {
		if json.Unmarshal(text, &refused) != nil || refused.Error == "" {
			refused.Error = fmt.Sprintf("%s answers %s", a.server, res.Status)
		}
		if out != nil {
			_ = json.Unmarshal(text, out) // what an error has besides
		}
		if res.StatusCode >= http.StatusInternalServerError {
			return was, errors.New(refused.Error)
		}
		return was, refusedError(refused.Error)
	}
	if out == nil || len(text) == 0 {
		return was, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return was, fmt.Errorf("%s does not answer as a keelson server does", a.server)
	}
	return was, nil
}

// loginServer settles at which server somebody logs in.
func (g *global) loginServer(given string) (string, error) {
	if given != "" {
		return serverURL(given)
	}
	server, err := g.named()
	if err != nil || server != "" {
		return server, err
	}
	inst, err := readInstance(g.data)
	if errors.Is(err, fs.ErrNotExist) {
		return "", withCode(exitUsage, hintf(errors.New("log in where? There is no instance on this machine"), "keelson login https://keelson.example.com"))
	}
	return inst.base(), err
}

func runLogin(ctx context.Context, g *global, given string, opts loginOptions) error {
	server, err := g.loginServer(given)
	if err != nil {
		return err
	}
	if inClear(server) {
		fmt.Fprintf(g.err, "note: %s is no https: whoever is on the way to it reads what is sent\n", server)
	}
	all, err := readLogins() // before anything is asked: it may not be readable
	if err != nil {
		return err
	}
	a := newAt(server)
	var offers struct{ Login struct{ OIDC string } }
	res, err := a.call(ctx, http.MethodGet, "/api/v1/me", nil, nil, &offers)
	if err != nil && res.status != http.StatusUnauthorized {
		return fmt.Errorf("log in: %w", err)
	}
	var l login
	switch {
	case opts.tokenStdin:
		l, err = a.withToken(ctx, g)
	case opts.web || offers.Login.OIDC != "" && opts.user == "":
		l, err = a.withBrowser(ctx, g)
	default:
		l, err = a.withPassword(ctx, g, opts)
	}
	if err != nil {
		return fmt.Errorf("log in at %s: %w", server, err)
	}
	old, had := all.Servers[server]
	all.Servers[server], all.Last = l, server
	if err := writeLogins(all); err != nil {
		return err
	}
	if had && old.Name != "" && old.Token != l.Token {
		_ = a.remove(ctx, old) // it expires anyway
	}
	return g.print(struct {
		Server  string    `json:"server"`
		Person  string    `json:"person"`
		Expires time.Time `json:"expires,omitzero"`
	}{server, l.Person, l.Expires}, printf("logged in at %s as %s", hostOf(server), l.Person))
}

// remove removes a token that was got by a login.
func (a at) remove(ctx context.Context, l login) error {
	_, err := a.call(ctx, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(l.Name), bearer(l.Token), nil, nil)
	return err
}

func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token, identity.UserHeader: thisUser()}
}

// withToken keeps a token that somebody has.
func (a at) withToken(ctx context.Context, g *global) (login, error) {
	token, err := readSecret(g.in)
	if err != nil {
		return login{}, err
	}
	var me identity.Me
	if _, err := a.call(ctx, http.MethodGet, "/api/v1/me", bearer(token), nil, &me); err != nil {
		return login{}, err
	}
	return login{Token: token, Person: me.Name}, nil
}

// withPassword logs in, and has a token made.
func (a at) withPassword(ctx context.Context, g *global, opts loginOptions) (login, error) {
	user, password := opts.user, ""
	var err error
	if opts.passwordStdin {
		password, err = readSecret(g.in)
	} else {
		if user == "" {
			user, err = g.askLine("User: ")
		}
		if err == nil {
			password, err = g.askSecret("Password: ")
		}
	}
	if err != nil {
		return login{}, err
	}
	var me identity.Me
	res, err := a.call(ctx, http.MethodPost, "/api/v1/session", nil, map[string]string{"user": user, "password": password}, &me)
	if err != nil {
		return login{}, err
	}
	headers := map[string]string{identity.CSRFHeader: me.CSRF}
	for _, c := range res.cookies {
		headers["Cookie"] = c.Name + "=" + c.Value
	}
	var made identity.MadeToken
	_, err = a.call(ctx, http.MethodPost, "/api/v1/tokens", headers, identity.NewToken{Name: tokenName(), Days: opts.days}, &made)
	if _, ended := a.call(ctx, http.MethodDelete, "/api/v1/session", headers, nil, nil); err == nil {
		err = ended
	}
	return login{Token: made.Token, Name: made.Name, Person: me.Name, Expires: made.Expires}, err
}

// tokenName is that of a login from this machine, now.
func tokenName() string {
	return fmt.Sprintf("login %s %s %s", thisMachine(), time.Now().UTC().Format("2006-01-02 15:04:05"), newToken()[:4])
}

func thisMachine() string {
	name, err := os.Hostname()
	if err != nil || strings.ContainsRune(name, '/') || len(name) > 40 {
		return "somewhere"
	}
	return name
}

// withBrowser shows a code and waits until somebody has let it in.
func (a at) withBrowser(ctx context.Context, g *global) (login, error) {
	var d identity.DeviceLogin
	if _, err := a.call(ctx, http.MethodPost, "/api/v1/session/device", nil, map[string]string{"name": thisMachine()}, &d); err != nil {
		return login{}, err
	}
	fmt.Fprintf(g.err, "Open this address, log in there, and let the code %s in:\n\n  %s%s\n\nwaiting …\n", d.Code, a.server, d.Path)
	var made identity.MadeToken
	err := poll(ctx, time.Duration(max(1, d.Interval))*time.Second, func(ctx context.Context) (bool, error) {
		res, err := a.call(ctx, http.MethodPost, "/api/v1/session/device", nil, map[string]string{"code": d.Code, "secret": d.Secret}, &made)
		return err == nil && res.status == http.StatusOK, err
	})
	return login{Token: made.Token, Name: made.Name, Person: made.Person, Expires: made.Expires}, err
}

// readSecret reads one line of an input that is no terminal.
func readSecret(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", usagef("standard input has to be one line")
	}
	return secret, nil
}

// terminal is the standard input, where a person types.
func (g *global) terminal() (*os.File, error) {
	f, ok := g.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, withCode(exitUsage, hintf(errors.New("there is no terminal to ask for a password"), "--password-stdin reads it from standard input"))
	}
	return f, nil
}

func (g *global) askLine(prompt string) (string, error) {
	f, err := g.terminal()
	if err != nil {
		return "", err
	}
	fmt.Fprint(g.err, prompt)
	line, err := bufio.NewReaderSize(f, 1).ReadString('\n') // no more than the line is read: the password comes after it
	return strings.TrimSpace(line), err
}

func (g *global) askSecret(prompt string) (string, error) {
	f, err := g.terminal()
	if err != nil {
		return "", err
	}
	fmt.Fprint(g.err, prompt)
	secret, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(g.err)
	return string(secret), err
}

func runLogout(ctx context.Context, g *global, given string) error {
	all, err := readLogins()
	if err != nil {
		return err
	}
	server := all.Last
	if _, err := readInstance(g.data); given != "" || g.server != "" || server == "" || err == nil || os.Getenv(serverVariable) != "" {
		if server, err = g.loginServer(given); err != nil {
			return err
		}
	}
	l, ok := all.Servers[server]
	if !ok {
		return g.print(map[string]string{"server": server}, printf("not logged in at %s", hostOf(server)))
	}
	delete(all.Servers, server)
	if all.Last == server {
		all.Last = ""
	}
	if err := writeLogins(all); err != nil {
		return err
	}
	if l.Name != "" { // else somebody has brought it, and may use it elsewhere
		if err := newAt(server).remove(ctx, l); err != nil && !errors.Is(err, errRefused) { // refused: it is over already
			return hintf(fmt.Errorf("the token is removed here, but not at %s: %w", server, err), "it lasts until %s", l.Expires.Format(time.DateTime))
		}
	}
	return g.print(map[string]string{"server": server}, printf("logged out at %s", hostOf(server)))
}

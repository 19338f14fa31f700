package identity

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"keelson.dev/keelson/internal/store"
)

// devicePath is where a person lets a terminal in.
const devicePath = "/login/device"

// deviceLife is how long a terminal waits for that, and maxDevices how many may wait at a time.
const deviceLife, maxDevices = 10 * time.Minute, 200

// deviceAsk is a terminal that waits to be let in.
type deviceAsk struct {
	name    string // of the machine, as it says
	secret  [32]byte
	expires time.Time
	holder  *store.Holder // who has let it in
}

// deviceView is what the page shows.
type deviceView struct{ Code, Name, Person, CSRF, Done string }

// DeviceLogin is what POST /api/v1/session/device answers a terminal that begins.
type DeviceLogin struct {
	Code     string `json:"code"`     // that the person sees in both places
	Secret   string `json:"secret"`   // of the terminal
	Path     string `json:"path"`     // where the person lets it in
	Interval int    `json:"interval"` // seconds between two questions whether that was done
}

// device is how keelson login gets a token without a password: it begins, a person who is logged in lets it in, and it asks until then.
func (s *Service) device(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name   string `json:"name"`
		Code   string `json:"code"`
		Secret string `json:"secret"`
	}
	if !decode(w, r, &in) {
		return
	}
	if in.Code == "" {
		d, err := s.beginDevice(in.Name)
		if err != nil {
			refuse(w, http.StatusTooManyRequests, err)
			return
		}
		answer(w, http.StatusOK, d)
		return
	}
	now := s.Now()
	s.mu.Lock()
	d, ok := s.asked[in.Code]
	ok = ok && now.Before(d.expires) && d.secret == hashOf("device "+in.Secret)
	var h *store.Holder
	var name string
	if ok && d.holder != nil {
		h, name = d.holder, d.name
		delete(s.asked, in.Code)
	}
	s.mu.Unlock()
	switch {
	case !ok:
		refuse(w, http.StatusGone, errors.New("this login was not finished in time, or was used: begin again"))
	case h == nil:
		answer(w, http.StatusAccepted, map[string]bool{"waiting": true})
	default:
		s.letIn(w, r, *h, name)
	}
}

// letIn gives a terminal its token.
func (s *Service) letIn(w http.ResponseWriter, r *http.Request, h store.Holder, name string) {
	db, err := s.Store()
	if err != nil {
		s.failed(w, err)
		return
	}
	n := NewToken{Name: fmt.Sprintf("login %s %s %s", name, s.Now().UTC().Format("2006-01-02 15:04:05"), strings.ToLower(rand.Text()[:4]))}
	made, err := s.newToken(r.Context(), db, h, n)
	s.tell(r, Event{Action: "token.add", Actor: h.Person, Object: h.Person + "/" + n.Name, Way: "device"}, err)
	if err != nil {
		s.failed(w, err)
		return
	}
	answer(w, http.StatusOK, made)
}

func (s *Service) beginDevice(name string) (DeviceLogin, error) {
	if name = strings.ReplaceAll(printable(name), "/", "-"); len(name) > 60 {
		name = string([]rune(name)[:min(15, len([]rune(name)))])
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for code, d := range s.asked {
		if !now.Before(d.expires) {
			delete(s.asked, code)
		}
	}
	if len(s.asked) >= maxDevices {
		return DeviceLogin{}, fmt.Errorf("%d logins of terminals wait already: try again later", maxDevices)
	}
	text := rand.Text()
	code, secret := text[:4]+"-"+text[4:8], newSecret()
	s.asked[code] = &deviceAsk{name: name, secret: hashOf("device " + secret), expires: now.Add(deviceLife)}
	return DeviceLogin{Code: code, Secret: secret, Path: devicePath + "?" + url.Values{"code": {code}}.Encode(), Interval: 2}, nil
}

func (s *Service) devicePage(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	d, ok := s.waiting(code)
	p := proofOf(r.Context())
	switch {
	case p.cookie == "":
		refuse(w, http.StatusBadRequest, errors.New("this page is for browsers"))
	case !ok:
		s.page(w, http.StatusNotFound, loginView{Device: &deviceView{Done: "No terminal waits with this code. Run keelson login again."}})
	default:
		s.page(w, http.StatusOK, loginView{Device: &deviceView{Code: code, Name: d.name, Person: p.Person, CSRF: csrfOf(p.cookie)}})
	}
}

// waiting gives the terminal that waits with a code.
func (s *Service) waiting(code string) (deviceAsk, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.asked[code]
	if !ok || d.holder != nil || !s.Now().Before(d.expires) {
		return deviceAsk{}, false
	}
	return *d, true
}

func (s *Service) deviceForm(w http.ResponseWriter, r *http.Request) {
	p := proofOf(r.Context())
	if err := r.ParseForm(); err != nil || p.cookie == "" || !equal(r.PostForm.Get("csrf"), csrfOf(p.cookie)) {
		refuse(w, http.StatusForbidden, errors.New("load the page again"))
		return
	}
	if err := p.renewable(p.Holder); err != nil {
		s.page(w, http.StatusForbidden, loginView{Device: &deviceView{Done: "The terminal was not let in: " + err.Error() + "."}})
		return
	}
	code := r.PostForm.Get("code")
	s.mu.Lock()
	d, ok := s.asked[code]
	if ok = ok && d.holder == nil && s.Now().Before(d.expires); ok {
		h := p.Holder
		d.holder = &h
	}
	s.mu.Unlock()
	if !ok {
		s.page(w, http.StatusNotFound, loginView{Device: &deviceView{Done: "No terminal waits with this code. Run keelson login again."}})
		return
	}
	s.page(w, http.StatusOK, loginView{Device: &deviceView{Done: "Done. Go back to the terminal."}})
}

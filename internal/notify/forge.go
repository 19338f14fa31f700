package notify

import (
	"fmt"
	"net/url"
	"strings"

	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/internal/cel"
)

// scope is what spec.commitStatusExpr may name.
var scope = cel.NewScope("event", "alert", "provider")

// maxStatusName is the most bytes of the name of a commit's status: GitHub's and GitLab's limit.
const maxStatusName = 255

// defaultStatusName is one per object and Provider: clusters that report on the same commit do not write over each other.
func defaultStatusName(uid string, e eventv1.Event) string {
	first, _, _ := strings.Cut(uid, "-")
	return strings.ToLower(e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name + "/" + first)
}

func statusName(text string, alert *notificationv1beta3.Alert, provider *notificationv1beta3.Provider, e eventv1.Event) (string, error) {
	expr, err := scope.CompileText(text)
	if err != nil {
		return "", err
	}
	vars := map[string]any{}
	for name, value := range map[string]any{"event": &e, "alert": alert, "provider": provider} {
		if vars[name], err = runtime.DefaultUnstructuredConverter.ToUnstructured(value); err != nil {
			return "", fmt.Errorf("read the %s: %w", name, err)
		}
	}
	id, err := expr.Text(vars)
	if err != nil {
		return "", err
	}
	if id == "" || len(id) > maxStatusName {
		return "", fmt.Errorf("it gives a name of %d bytes; a commit status needs one, and of at most %d", len(id), maxStatusName)
	}
	return id, nil
}

// github sets the status of a commit at GitHub, or at a GitHub Enterprise server.
func github(t Target, e eventv1.Event) ([]Request, error) {
	return githubCall(t, "statuses/"+commitOf(e), map[string]string{
		"state": either(e, "failure", "success"), "description": cut(words(e.Reason), 137), "context": t.Channel,
	})
}

// githubDispatch starts workflows of a repository.
func githubDispatch(t Target, e eventv1.Event) ([]Request, error) {
	o := e.InvolvedObject
	return githubCall(t, "dispatches", map[string]any{"event_type": cut(o.Kind+"/"+o.Name+"."+o.Namespace, 97), "client_payload": e})
}

func githubCall(t Target, path string, payload any) ([]Request, error) {
	repo, err := repositoryOf(t.Address)
	if err != nil {
		return nil, err
	}
	name, err := repo.ownerName()
	if err != nil {
		return nil, err
	}
	base := repo.base + "/api/v3"
	if repo.host == "github.com" {
		base = "https://api.github.com"
	}
	r, err := post(base+"/repos/"+name+"/"+path, payload)
	if err != nil {
		return nil, err
	}
	r.header("Accept", "application/vnd.github+json").header("X-GitHub-Api-Version", "2022-11-28").bearer(t.Token)
	return []Request{r}, nil
}

func gitlab(t Target, e eventv1.Event) ([]Request, error) {
	repo, err := repositoryOf(t.Address)
	if err != nil {
		return nil, err
	}
	r, err := post(repo.base+"/api/v4/projects/"+url.PathEscape(repo.path)+"/statuses/"+commitOf(e), map[string]string{
		"state": either(e, "failed", "success"), "name": t.Channel, "description": words(e.Reason),
	})
	if err != nil {
		return nil, err
	}
	r.header("PRIVATE-TOKEN", t.Token)
	r.rejects = func(status int, body []byte) (string, bool) {
		return "", status == 400 && strings.Contains(string(body), "Cannot transition status") // it has this state already
	}
	return []Request{r}, nil
}

func gitea(t Target, e eventv1.Event) ([]Request, error) {
	repo, err := repositoryOf(t.Address)
	if err != nil {
		return nil, err
	}
	name, err := repo.ownerName()
	if err != nil {
		return nil, err
	}
	state := either(e, "failure", "success")
	if progressing(e) && !failed(e) {
		state = "pending"
	}
	r, err := post(repo.base+"/api/v1/repos/"+name+"/statuses/"+commitOf(e), map[string]string{
		"state": state, "target_url": "", "description": words(e.Reason), "context": t.Channel,
	})
	if err != nil {
		return nil, err
	}
	r.header("Authorization", "token "+t.Token)
	return []Request{r}, nil
}
